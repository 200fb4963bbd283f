"""Files of raw rows: two containers, three encodings, every row with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtune import sources
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
