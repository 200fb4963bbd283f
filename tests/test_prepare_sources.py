"""prepare_data: which files are read, by which layout, and under which names their rows come in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtune import dataset
from medtune.dataset import Dataset
from tests.preparing import Bench, talk, turns


@pytest.fixture
def bench(tmp_path: Path, demo_model: Path) -> Bench:
    return Bench(tmp_path, demo_model)


def test_a_sources_settings_fill_what_records_leave_open(bench: Bench) -> None:
    path = bench.write("a.jsonl", [{"instruction": f"问题{n}", "output": f"Answer {n}"} for n in range(10)])
    source = f"{{path: '{path}', dimension: warmth, license: MIT, department: 内科, weight: 0.5}}"
    assert bench.run("--set", f"sources=[{source}]", sources=[bench.write("b.jsonl", [talk(1)])]) == 0
    records = bench.all()
    made = [record for record in records.values() if record.id != "r1"]
    assert {(r.dim, r.license, r.department, r.weight, r.lang) for r in made} == {("warmth", "MIT", "内科", 0.5, "en")}
    assert (records["r1"].dim, records["r1"].license, records["r1"].lang) == ("accuracy", "unknown", "zh")
    sources = Dataset.open(bench.out).manifest.results["sources"]
    named = dataset.sources(bench.out)
    assert [(named[one["path"]].name, one["layout"]) for one in sources] == [
        ("b.jsonl", "record"),
        ("a.jsonl", "alpaca"),
    ]
    assert Dataset.open(bench.out).manifest.results["license"] == "unknown"


def test_layouts_mix_and_ids_stay_unique_over_files(bench: Bench) -> None:
    openai = [{"id": n, "messages": turns(f"甲{n}", f"答{n}")} for n in range(10)]
    shared = [
        {"id": n, "conversations": [{"from": "human", "value": f"乙{n}"}, {"from": "gpt", "value": "答"}]}
        for n in range(10)
    ]
    pairs = [{"instruction": f"丙{n}", "chosen": "请就医", "rejected": "没事"} for n in range(10)]
    for name, rows in (("a.jsonl", openai), ("b.jsonl", shared), ("c.jsonl", pairs)):
        bench.write(name, rows)
    assert bench.run() == 0
    records = bench.all()
    assert len(records) == 40 and {"raw/a:3", "raw/b:3", "raw/c:4-1", "raw/c:4-2"} <= records.keys()
    assert {(records[f"raw/c:{n}-1"].label, records[f"raw/c:{n}-2"].label) for n in range(1, 11)} == {(1, 0)}


def test_two_files_of_one_name_both_come_in(bench: Bench) -> None:
    files = [
        bench.write(f"{folder}/train.jsonl", [{"instruction": f"{folder}问{n}", "output": "请就医"} for n in range(20)])
        for folder in "AB"
    ]
    assert bench.run(sources=files) == 0
    assert len(bench.all()) == 40 and bench.rejected() == []
    bench.write("C/x.jsonl", [{"instruction": f"丙{n}", "output": "请就医"} for n in range(20)])
    (bench.raw / "C/x.json").write_text(json.dumps([{"instruction": f"丁{n}", "output": "好"} for n in range(20)]))
    assert bench.run(sources=[bench.raw / "C"]) == 0
    assert len(bench.all()) == 40 and bench.rejected() == []


def test_a_file_of_misspelt_keys_is_refused_in_one_line_that_names_them(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write("a.jsonl", [talk(n, dim="warmth", lable=0) for n in range(20)])
    assert bench.run() == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "a.jsonl: " in error and "lable (label?)" in error


def test_wrong_sources_are_all_named_in_one_error(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    strange = bench.write("strange.jsonl", [{"q": "问", "a": "答"}])
    assert bench.run(sources=[bench.folder / "gone.jsonl", strange]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: sources: 2 problems\n") and "Traceback" not in error
    assert "gone.jsonl: no such file or folder" in error and "strange.jsonl: no known layout fits" in error
    assert not bench.out.exists()


def test_a_missing_source_and_a_missing_tokenizer_are_one_line_each(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(sources=[bench.folder / "gone"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    bench.write("a.jsonl", [talk(1)])
    assert bench.run("--set", "tokenizer=nobody/nothing") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nobody/nothing: no such model here" in error


def test_a_data_set_inside_its_own_source_is_not_read(bench: Bench) -> None:
    bench.out = bench.raw / "out"
    bench.image("a.png")
    row = talk(30, messages=turns("<image>看", "好"), images=["a.png"])
    bench.write("a.jsonl", [*(talk(n) for n in range(10)), row])
    assert bench.run() == 0 and bench.run("--set", "seed=1") == 0
    assert len(bench.all()) == 11 and bench.rejected() == []


def test_a_file_named_twice_is_read_once(bench: Bench) -> None:
    path = bench.write("a.jsonl", [talk(n) for n in range(10)])
    assert bench.run(sources=[path, bench.raw]) == 0
    assert len(bench.all()) == 10 and bench.rejected() == []


def test_a_named_layout_is_taken_at_its_word(bench: Bench) -> None:
    path = bench.write(
        "a.jsonl", [{"conversations": []}, *({"instruction": f"{n}", "output": "答"} for n in range(10))]
    )
    assert (
        bench.run("--set", f"sources=[{{path: '{path}', layout: alpaca}}]", sources=[bench.write("b.jsonl", [talk(1)])])
        == 0
    )
    assert bench.rejected() == [(1, "layout")]
