"""Files of raw rows: two containers, three encodings, every row with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtune.data import sources
from medtune.errors import UserError
from medtune.schemas import Source

ROWS = [{"id": 1, "text": "血压"}, {"id": 2, "text": "体温\n38.5"}, {"id": 3, "list": [1, {"a": "]["}]}]


def read(path: Path) -> list[tuple[int, object]]:
    return [(row.line, row.value) for row in sources.rows(path)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_lines_are_read_in_three_encodings_whatever_the_suffix(tmp_path: Path, encoding: str, name: str) -> None:
    path = tmp_path / name
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding=encoding)
    assert read(path) == list(zip([1, 3, 5], ROWS, strict=True))


@pytest.mark.parametrize("block", [1, 7, 2**20])
def test_an_array_streams_with_line_numbers_at_any_block_size(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK", block)
    path = tmp_path / "a.json"
    path.write_text("\n" + json.dumps(ROWS, ensure_ascii=False, indent=1), encoding="utf-8")
    lines = path.read_text(encoding="utf-8").splitlines()
    found = read(path)
    assert [value for _, value in found] == ROWS
    assert [lines[line - 1].strip() for line, _ in found] == ["{"] * 3


def test_a_broken_line_is_a_row_with_a_fault_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n{"id": 2,\n{"id": 3}\n', encoding="utf-8")
    found = list(sources.rows(path))
    assert [bool(row.fault) for row in found] == [False, True, False]
    assert found[1].line == 2 and found[1].value == '{"id": 2,'


def test_a_broken_array_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"id": 1},\n{"id": }]', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.json:2: not JSON"):
        read(path)


def test_an_array_that_just_ends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"id": 1}, {"id": 2}', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.json:1: not JSON"):
        read(path)


@pytest.mark.parametrize("block", [1, 7, 2**20])
@pytest.mark.parametrize("after", ['\n [{"id": 3}]', "\n xyz", "\n ]"])
def test_what_follows_an_array_is_refused_with_its_line_and_not_ignored(
    tmp_path: Path, after: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK", block)
    path = tmp_path / "a.json"
    path.write_text(f'[{{"id": 1}},\n{{"id": 2}}]\n\n{after}', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.json:5: more follows the array; put all rows into one array"):
        read(path)
    path.write_text('[{"id": 1},\n{"id": 2}]\n\n \t', encoding="utf-8")
    assert len(read(path)) == 2


ODD = {
    "half a character": '{"text": "a\\ud83d"}',
    "half a key": '{"a\\uDE00": 1}',
    "long integer": '{"n": ' + "9" * 5000 + "}",
    "deep": '{"n": ' + "[" * 150 + "]" * 150 + "}",
    "bottomless": "[" * 100_000,
}


@pytest.mark.parametrize("name", ODD)
def test_a_row_python_cannot_handle_is_a_fault_on_its_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"id": 1}}\n{ODD[name]}\n{{"id": "\\ud83d\\ude00"}}\n', encoding="utf-8")
    found = list(sources.rows(path))
    assert [bool(row.fault) for row in found] == [False, True, False]
    assert found[1].line == 2 and found[1].value == ODD[name] and found[2].value == {"id": "😀"}


@pytest.mark.parametrize("name", ODD)
def test_in_an_array_it_is_a_fault_too_or_refused_with_its_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'[{{"id": 1}},\n{ODD[name]},\n{{"id": 3}}]', encoding="utf-8")
    if name in ("long integer", "bottomless"):
        with pytest.raises(UserError, match=r"a\.json:2: not JSON"):
            read(path)
        return
    assert [(row.line, bool(row.fault)) for row in sources.rows(path)] == [(1, False), (2, True), (3, False)]


def test_a_file_that_may_not_be_read_is_one_line_whether_its_layout_is_named_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"instruction": "a", "output": "b"}\n')

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read what nobody may
    wanted = [Source(path=str(tmp_path / "a.jsonl")), Source(path=str(tmp_path / "b.jsonl"), layout="alpaca")]
    with pytest.raises(UserError) as error:
        sources.open_sources(wanted, tmp_path / "out")
    assert str(error.value).startswith("sources: 2 problems\n")
    assert "b.jsonl: cannot be read (Permission denied); check its permissions" in str(error.value)


def test_the_home_of_nobody_is_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="~nobody-here/x: no such file or folder"):
        sources.open_sources([Source(path="~nobody-here/x")], tmp_path / "out")


def test_files_are_named_by_the_end_of_their_path_where_names_clash_and_as_before_where_not(tmp_path: Path) -> None:
    names = ["A/x/train.jsonl", "B/x/train.jsonl", "B/y/train.jsonl", "raw/x.json", "raw/x.jsonl", "raw/in/y.jsonl"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"instruction": "a", "output": "b"}\n')
    wanted = [Source(path=str(tmp_path / name)) for name in [*names[:3], "raw"]]
    assert [file.name for file in sources.open_sources(wanted, tmp_path / "out")] == [
        *["A/x/train.jsonl", "B/x/train.jsonl", "y/train.jsonl"],
        *["raw/in/y", "x.json", "x.jsonl"],
    ]


def test_one_object_over_many_lines_is_not_mistaken_for_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"annotations": ROWS}, indent=1), encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.json: neither one JSON value on each line nor one array"):
        sources.open_sources([Source(path=str(path))], tmp_path / "out")


def test_a_file_that_is_no_text_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\x89PNG\xff\xff\x00")
    with pytest.raises(UserError, match="neither UTF-8 nor GB18030"):
        read(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("  \n")
    with pytest.raises(UserError, match="the file is empty"):
        read(tmp_path / "b.json")


def test_a_folder_means_its_data_files_without_the_card_and_hidden_ones(tmp_path: Path) -> None:
    names = ["b.jsonl", "in/a.json", "SOURCE_CARD.json", ".hidden.jsonl", ".git/x.json", "notes.txt", "._b.jsonl"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert [path.relative_to(tmp_path).as_posix() for path in sources.files_of(tmp_path)] == ["b.jsonl", "in/a.json"]


def test_a_missing_path_and_an_empty_folder_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder; check `sources`"):
        sources.files_of(tmp_path / "gone")
    with pytest.raises(UserError, match="put your data there"):
        sources.files_of(tmp_path)
