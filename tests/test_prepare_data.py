"""prepare_data through its command line: what goes in comes out once, checked, counted and in one split only."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from medtune import cli
from medtune.data import encodings
from medtune.data.rejections import Rejected, rejections
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.model.base import Base
from medtune.model.renderer import Renderer
from medtune.records import SPLITS, Record
from tools import prepare_data

SETTINGS: dict[str, Any] = {
    "sources": [],
    "system_prompt": "",
    "max_seq_length": 512,
    "max_image_edge": 64,
    "valid_fraction": 0.1,
    "test_fraction": 0.1,
    "seed": 0,
    "privacy": "reject",
    "dedup": "exact",
}


class Bench:
    """A folder to prepare data in."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.raw, self.out = folder, folder / "raw", folder / "out"
        self.raw.mkdir()
        self.config = folder / "data.yaml"
        self.config.write_text(yaml.safe_dump({"tokenizer": str(model), **SETTINGS}, allow_unicode=True))

    def write(self, name: str, rows: Iterable[Any]) -> Path:
        """Write JSON lines into the raw folder."""
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    def image(self, name: str, colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (48, 32)) -> None:
        """Write one image into the raw folder."""
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)

    def run(self, *arguments: str, sources: Iterable[Path] = ()) -> int:
        """Run the tool on the raw folder, or on ``sources``."""
        named = [str(source) for source in sources] or [str(self.raw)]
        return cli.call(prepare_data.main, [*named, "--config", str(self.config), "--out", str(self.out), *arguments])

    def rejected(self) -> list[tuple[int, str]]:
        """Line and reason of every rejected row."""
        lines = (self.out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
        return [(row["line"], row["reason"]) for row in map(json.loads, lines)]

    def records(self) -> dict[str, list[Record]]:
        """The records of each split."""
        dataset = Dataset.open(self.out)
        return {name: dataset.split(name) for name in SPLITS}

    def all(self) -> dict[str, Record]:
        """All records by id."""
        return {record.id: record for split in self.records().values() for record in split}


@pytest.fixture
def bench(tmp_path: Path, demo_model: Path) -> Bench:
    return Bench(tmp_path, demo_model)


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def talk(number: int, **fields: Any) -> dict[str, Any]:
    """A sound record, different for every number."""
    messages = turns(f"血压{number}/90正常吗？", f"{number}/90需要复查。")
    return {"id": f"r{number}", "source": "test", "messages": messages, **fields}


def test_every_row_is_either_one_record_or_one_rejection(bench: Bench) -> None:
    bench.write("a.jsonl", [talk(n) for n in range(40)] + [talk(3)] + [talk(n, messages=[]) for n in range(50, 54)])
    assert bench.run() == 0
    assert len(bench.all()) == 40
    assert Counter(reason for _, reason in bench.rejected()) == {"duplicate_id": 1, "empty": 4}


REJECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "blank answer": ("empty", {"messages": turns("问", " \n")}),
    "no assistant": ("no_assistant", {"messages": turns("问", "答")[:1]}),
    "question last": ("last_not_assistant", {"messages": [*turns("问", "答"), {"role": "user", "content": "再问"}]}),
    "two questions": ("roles", {"messages": [{"role": "user", "content": "问"}, *turns("问", "答")]}),
    "answer first": ("roles", {"messages": turns("问", "答")[::-1] + turns("问", "答")[1:]}),
    "late system": (
        "roles",
        {"messages": [*turns("问", "答"), {"role": "system", "content": "x"}, turns("a", "b")[1]]},
    ),
    "marker without image": ("image_markers", {"messages": turns("<image>看", "答")}),
    "image without marker": ("image_markers", {"images": ["ok.png"]}),
    "marker in the answer": ("image_markers", {"messages": turns("看", "<image>"), "images": ["ok.png"]}),
    "missing image": ("image_missing", {"messages": turns("<image>看", "答"), "images": ["gone.png"]}),
    "broken image": ("image_broken", {"messages": turns("<image>看", "答"), "images": ["broken.png"]}),
    "web image": ("image_url", {"messages": turns("<image>看", "答"), "images": ["https://example.org/a.png"]}),
    "span too far": ("span", {"spans": [{"start": 0, "end": 999, "weight": 2.0}]}),
    "empty span": ("fields", {"spans": [{"start": 2, "end": 2, "weight": 2.0}]}),
    "unknown dimension": ("fields", {"dim": "speed"}),
    "unknown key": ("layout", {"mood": "good"}),
    "telephone": ("privacy", {"messages": turns("我的电话13812345678", "好的")}),
    "too long": ("too_long", {"messages": turns("问", "血压" * 900)}),
}


def test_each_fault_has_its_reason_and_line_and_the_sound_rows_stay(bench: Bench) -> None:
    bench.image("ok.png")
    (bench.raw / "broken.png").write_bytes((bench.raw / "ok.png").read_bytes()[:60])
    sound = [talk(100 + n) for n in range(400)]  # enough for the layout to be recognised beside the faults
    faulty = [talk(n, **fields) for n, (_, fields) in enumerate(REJECTED.values())]
    bench.write("a.jsonl", sound + faulty)
    assert bench.run() == 0
    wanted = [(len(sound) + n, reason) for n, (reason, _) in enumerate(REJECTED.values(), 1)]
    assert sorted(bench.rejected()) == wanted
    assert len(bench.all()) == len(sound)


def test_personal_data_reach_neither_the_screen_nor_the_receipt(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "我叫李雷，身份证11010519491231002X"
    bench.write("a.jsonl", [talk(n) for n in range(30)] + [talk(99, messages=turns(secret, "好的"))])
    assert bench.run() == 0
    shown = capsys.readouterr()
    said = shown.out + shown.err + (bench.out / "manifest.json").read_text(encoding="utf-8")
    assert "李雷" not in said and "11010519491231002X" not in said
    assert "a.jsonl:31" in shown.out and "personal data" in shown.out
    assert secret in (bench.out / "rejected.jsonl").read_text(encoding="utf-8")
    assert not any("李雷" in record.to_json() for record in bench.all().values())


def test_privacy_off_keeps_them(bench: Bench) -> None:
    bench.write("a.jsonl", [talk(n, messages=turns(f"电话1381234567{n}", f"好的{n}")) for n in range(10)])
    assert bench.run("--set", "privacy=off") == 0
    assert len(bench.all()) == 10


def test_no_patient_image_pair_or_question_is_in_two_splits(bench: Bench) -> None:
    for n in range(10):
        bench.image(f"{n}.png", (n * 20, 0, 0))
    rows = [talk(n, cluster=f"patient {n % 30}") for n in range(60)]
    rows += [
        talk(100 + n, messages=turns("<image>这是什么？", f"第{n}种说法。"), images=[f"{n % 10}.png"])
        for n in range(40)
    ]
    rows += [talk(200 + n, messages=turns(f"头痛{n % 20}天？", f"第{n}种说法。")) for n in range(40)]
    rows += [talk(300 + n, pair=f"pair {n % 15}") for n in range(30)]
    bench.write("a.jsonl", rows)
    assert bench.run("--set", "valid_fraction=0.2", "--set", "test_fraction=0.2") == 0
    where: dict[str, set[str]] = {}
    for split, records in bench.records().items():
        for record in records:
            links = [f"cluster {record.cluster}", *record.images, f"pair {record.pair or record.id}"]
            for link in [*links, *([] if record.images else [record.prompt[-1].content])]:
                where.setdefault(link, set()).add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert {len(records) for records in bench.records().values()} != {0}


def test_a_given_cluster_keeps_its_name_and_others_get_one(bench: Bench) -> None:
    bench.image("a.png")
    rows = [talk(n) for n in range(10)]
    rows += [talk(20, cluster="patient 7"), talk(21, messages=turns("<image>看", "好"), images=["a.png"])]
    bench.write("a.jsonl", rows)
    assert bench.run() == 0
    records = bench.all()
    assert records["r20"].cluster == "patient 7"
    assert records["r21"].cluster == f"image {Path(records['r21'].images[0]).stem}"
    assert len({record.cluster for record in records.values()}) == len(records)


def test_splits_depend_on_the_seed_alone_and_fractions_are_met(bench: Bench) -> None:
    bench.write("a.jsonl", [talk(n, dim=["accuracy", "warmth"][n % 2]) for n in range(200)])
    assert bench.run() == 0
    first = {name: [record.id for record in records] for name, records in bench.records().items()}
    assert [len(first[name]) for name in SPLITS] == [160, 20, 20]
    bench.out = bench.folder / "again"
    assert bench.run() == 0
    assert first == {name: [record.id for record in records] for name, records in bench.records().items()}
    assert bench.run("--set", "seed=1") == 0
    assert first["test"] != [record.id for record in bench.records()["test"]]


def test_the_manifest_counts_what_the_trainer_will_see(bench: Bench, demo_model: Path) -> None:
    bench.image("a.png", size=(100, 60))
    spans = [{"start": 0, "end": 3, "weight": -1.0}]
    rows = [talk(n) for n in range(20)] + [talk(30, label=0, spans=spans, dim="warmth")]
    rows += [talk(31, messages=turns("<image>看", "好"), images=["a.png"])]
    bench.write("a.jsonl", rows)
    assert bench.run() == 0
    dataset = Dataset.open(bench.out)
    results, renderer = dataset.manifest.results, Renderer(Base.find(str(demo_model)))
    for name in SPLITS:
        examples = [renderer.encode(record, dataset.root) for record in dataset.split(name)]
        part = results["splits"][name]
        assert part["records"] == len(examples) == sum(results["histogram"][name])
        assert part["tokens"] == sum(len(example.tokens) for example in examples)
        assert part["image_tokens"] == sum(example.image_tokens for example in examples)
        assert part["supervised_tokens"] == sum(example.supervised for example in examples)
    kinds: Counter[str] = Counter()
    for part in results["splits"].values():
        for dim, counts in part["dimensions"].items():
            kinds.update({f"{dim} {kind}": count for kind, count in counts.items() if count})
    assert kinds == {
        "accuracy desirable": 20,
        "warmth undesirable": 1,
        "warmth marked": 1,
        "vision desirable": 1,
    }
    assert results["histogram"]["edges"][-2] <= results["max_tokens"] < results["histogram"]["edges"][-1]
    assert results["tokenizer"]["hash"] == Base.find(str(demo_model)).tokenizer_hash
    assert set(dataset.manifest.outputs) == {"train.jsonl", "valid.jsonl", "test.jsonl"}


def test_images_are_small_rgb_copies_named_by_content(bench: Bench) -> None:
    bench.image("in/a.png", size=(200, 100))
    bench.image("in/b.png", size=(200, 100))
    rows = [talk(n, messages=turns("<image>看", f"好{n}"), images=[f"{'ab'[n % 2]}.png"]) for n in range(10)]
    bench.write("in/a.jsonl", rows)
    assert bench.run("--set", "valid_fraction=0.0", "--set", "test_fraction=0.0") == 0
    names = {name for record in bench.all().values() for name in record.images}
    assert len(names) == 1
    with Image.open(bench.out / names.pop()) as image:
        assert image.size == (64, 32) and image.mode == "RGB"
    assert all(record.dim == "accuracy" for record in bench.all().values() if not record.images)
    assert {record.dim for record in bench.all().values() if record.images} == {"vision"}


def test_a_sources_settings_fill_what_records_leave_open(bench: Bench) -> None:
    path = bench.write("a.jsonl", [{"instruction": f"问题{n}", "output": f"Answer {n}"} for n in range(10)])
    source = f"{{path: '{path}', dimension: warmth, license: MIT, department: 内科, weight: 0.5}}"
    assert bench.run("--set", f"sources=[{source}]", sources=[bench.write("b.jsonl", [talk(1)])]) == 0
    records = bench.all()
    made = [record for record in records.values() if record.id != "r1"]
    assert {(r.dim, r.license, r.department, r.weight, r.lang) for r in made} == {("warmth", "MIT", "内科", 0.5, "en")}
    assert (records["r1"].dim, records["r1"].license, records["r1"].lang) == ("accuracy", "unknown", "zh")
    sources = Dataset.open(bench.out).manifest.results["sources"]
    assert [(Path(one["path"]).name, one["layout"]) for one in sources] == [
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


def test_rows_of_an_array_on_one_line_have_ids_of_their_own(bench: Bench) -> None:
    rows = [{"instruction": f"丙{n}", "output": "请就医"} for n in range(5)]
    (bench.raw / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    assert bench.run() == 0
    assert set(bench.all()) == {f"raw/a:{n}" for n in range(1, 6)}


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


def test_ids_that_we_make_give_way_to_those_of_rows_and_only_these_may_not_repeat(bench: Bench) -> None:
    named = [None, 1, 3, None, 3]
    rows = [
        {"instruction": f"丙{n}", "output": "请就医"} | ({"id": name} if name else {}) for n, name in enumerate(named)
    ]
    bench.write("a.jsonl", rows + [{"instruction": f"丁{n}", "output": "好"} for n in range(9)])
    assert bench.run() == 0
    assert bench.rejected() == [(5, "duplicate_id")] and len(bench.all()) == 13
    assert {"raw/a:1", "raw/a:1~2", "raw/a:3", "raw/a:4"} <= bench.all().keys()


@pytest.mark.parametrize("lacking", [["id"], ["source"], ["id", "source"], []])
def test_own_rows_without_an_id_or_a_source_keep_what_they_say(bench: Bench, lacking: list[str]) -> None:
    rows = [talk(n, dim="warmth", label=0, cluster=f"p{n}") for n in range(20)]
    bench.write("a.jsonl", [{key: row[key] for key in row if key not in lacking} for row in rows])
    assert bench.run() == 0
    assert {(one.dim, one.label) for one in bench.all().values()} == {("warmth", 0)} and len(bench.all()) == 20
    assert {one.cluster for one in bench.all().values()} == {f"p{n}" for n in range(20)}


def test_a_file_of_misspelt_keys_is_refused_in_one_line_that_names_them(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write("a.jsonl", [talk(n, dim="warmth", lable=0) for n in range(20)])
    assert bench.run() == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "a.jsonl: " in error and "lable (label?)" in error


def test_own_keys_past_the_rows_that_decided_reject_their_rows_unless_the_layout_is_named(bench: Bench) -> None:
    plain = [{"messages": talk(n)["messages"]} for n in range(220)]
    path = bench.write("a.jsonl", [*plain, {"messages": talk(300)["messages"], "dim": "warmth"}])
    assert bench.run() == 0 and bench.rejected() == [(221, "layout")]
    bench.write("b.jsonl", [talk(1000)])
    for layout, dims in (("messages", {"accuracy"}), ("record", {"accuracy", "warmth"})):
        named = f"sources=[{{path: '{path}', layout: {layout}}}]"
        assert bench.run("--set", named, sources=[bench.raw / "b.jsonl"]) == 0
        assert bench.rejected() == [] and {one.dim for one in bench.all().values()} == dims


ODD: list[tuple[str, str]] = [
    ("json", '{"instruction": "半个\\ud83d", "output": "答"}'),
    ("json", '{"instruction": "半个", "output": "答", "images": ["\\ud83d.png"]}'),
    ("json", '{"instruction": "问", "output": "答", "n": ' + "7" * 5000 + "}"),
    ("json", '{"instruction": "问", "output": "答", "n": ' + "[" * 100_000 + "}"),
    ("json", '{"instruction": "问", "output": "答", "n": ' + "[" * 900 + "]" * 900 + "}"),
    ("fields", '{"instruction": ["问"], "output": "答"}'),
    ("fields", '{"instruction": "问", "input": ["x"], "output": "答"}'),
    ("fields", '{"instruction": "问", "output": "答", "history": 5}'),
    ("fields", '{"instruction": "问", "output": "答", "label": "bad"}'),
    ("image_missing", '{"instruction": "问", "output": "答", "images": ["a\\u0000.png"]}'),
    ("image_missing", '{"instruction": "问", "output": "答", "images": ["file://[bad"]}'),
    ("image_missing", '{"instruction": "问", "output": "答", "images": ["~nobody-here/x.png"]}'),
]


def test_no_odd_row_ends_the_tool_and_each_is_a_rejection_one_can_read(bench: Bench) -> None:
    path = bench.write("a.jsonl", [{"instruction": f"丙{n}", "output": "请就医"} for n in range(400)])
    with path.open("a", encoding="utf-8") as file:
        file.writelines(line + "\n" for _, line in ODD)
    assert bench.run() == 0
    assert sorted(bench.rejected()) == [(401 + n, reason) for n, (reason, _) in enumerate(ODD)]
    assert len(bench.all()) == 400


def test_whatever_a_row_holds_its_rejection_can_be_written_and_read(tmp_path: Path) -> None:
    with rejections(tmp_path / "rejected.jsonl") as rejected:
        rejected.add(Path("a.jsonl"), 1, Rejected("fields", "\ud83d"), {"a\ude00": "\ud83d"})
    (line,) = (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["row"] == {"a\ude00": "\ud83d"} and json.loads(line)["detail"] == "\ud83d"


@pytest.mark.parametrize("weight", ["Infinity", "NaN"])
def test_a_weight_without_end_is_rejected(bench: Bench, weight: str) -> None:
    path = bench.write("a.jsonl", [talk(n) for n in range(400)])
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(talk(500, weight=1.5)).replace("1.5", weight) + "\n")
        span = {"start": 0, "end": 1, "weight": 1.5}
        file.write(json.dumps(talk(501, spans=[span])).replace("1.5", weight) + "\n")
    assert bench.run() == 0 and bench.rejected() == [(401, "fields"), (402, "fields")]


def test_a_persons_pictures_in_the_folder_stay(bench: Bench) -> None:
    own = bench.out / "images" / "family.png"
    own.parent.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(own)
    bench.write("a.jsonl", [talk(n) for n in range(10)])
    assert bench.run() == 0 and own.exists()
    assert bench.run("--set", "seed=1") == 0 and own.exists()


def test_a_system_prompt_is_put_before_conversations_that_have_none(bench: Bench) -> None:
    own = [{"role": "system", "content": "自己的"}, *turns("问", "答")]
    bench.write("a.jsonl", [talk(n) for n in range(10)] + [talk(50, messages=own)])
    assert bench.run("--set", "system_prompt=你是医生") == 0
    prompts = {name: record.messages[0].content for name, record in bench.all().items()}
    assert prompts.pop("r50") == "自己的" and set(prompts.values()) == {"你是医生"}


def test_a_second_run_says_it_is_done_and_any_change_runs_again(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.image("a.png")
    rows = [talk(n) for n in range(10)] + [talk(30, messages=turns("<image>看", "好"), images=["a.png"])]
    bench.write("a.jsonl", rows)

    def done() -> bool:
        capsys.readouterr()
        assert bench.run() == 0
        return "already done" in capsys.readouterr().out

    assert not done() and done()
    bench.image("a.png", (0, 200, 0), size=(50, 32))
    assert not done() and done()
    bench.write("a.jsonl", [*rows, talk(40)])
    assert not done() and done()
    next((bench.out / "images").glob("*.png")).unlink()
    assert not done() and done()
    bench.config.write_text(bench.config.read_text().replace("seed: 0", "seed: 5"))
    assert not done() and done()


def test_an_image_that_arrives_later_is_taken_in(bench: Bench) -> None:
    rows = [talk(n) for n in range(10)] + [talk(30, messages=turns("<image>看", "好"), images=["a.png"])]
    bench.write("a.jsonl", rows)
    assert bench.run() == 0 and bench.rejected() == [(11, "image_missing")]
    bench.image("a.png")
    assert bench.run() == 0 and bench.rejected() == []


def test_an_empty_result_is_refused_with_every_reason(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write("a.jsonl", [talk(1, messages=[]), talk(2, images=["gone.png"]), talk(3, messages=[])])
    assert bench.run() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no data set (0 records): 2 problems\n")
    assert "2 x a turn without text" in error and "a.jsonl:2" in error
    assert not (bench.out / "manifest.json").exists() and len(bench.rejected()) == 3


def test_an_empty_train_split_is_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write("a.jsonl", [talk(1)])
    assert bench.run("--set", "test_fraction=0.9") == 1
    assert "no record is left for train" in capsys.readouterr().err


def test_a_dimension_missing_from_a_split_is_only_a_warning(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write("a.jsonl", [talk(n) for n in range(30)] + [talk(50, dim="warmth")])
    assert bench.run() == 0
    shown = capsys.readouterr().out
    assert "valid has no warmth record" in shown and "test has no warmth record" in shown
    assert "no vision record" not in shown


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


def test_a_changed_or_missing_split_and_a_lost_image_are_refused_on_opening(bench: Bench) -> None:
    bench.image("a.png")
    bench.write("a.jsonl", [talk(n, messages=turns("<image>看", f"好{n}"), images=["a.png"]) for n in range(3)])
    with pytest.raises(UserError, match="make data"):
        Dataset.open(bench.out)
    assert bench.run() == 0
    dataset = Dataset.open(bench.out)
    image = next((bench.out / "images").glob("*.png"))
    whole = image.read_bytes()
    for damage in (b"", b"no image", whole[: len(whole) // 2]):
        image.write_bytes(damage)
        with pytest.raises(UserError, match=r"1 images are missing, broken or changed .*run `make data .*` again"):
            dataset.split("train")
    assert bench.run() == 0 and image.read_bytes() == whole  # and that helps
    image.unlink()
    with pytest.raises(UserError, match="1 images are missing"):
        dataset.split("train")
    (bench.out / "train.jsonl").write_text("{}\n")
    (bench.out / "test.jsonl").unlink()
    with pytest.raises(UserError) as error:
        Dataset.open(bench.out)
    assert "train.jsonl was changed" in str(error.value) and "test.jsonl is missing" in str(error.value)


def test_several_processes_count_what_one_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.image("a.png")
    rows = [talk(n) for n in range(20)] + [talk(30, messages=turns("<image>看", "好"), images=["a.png"])]
    bench.write("a.jsonl", rows)
    assert bench.run() == 0
    alone = Dataset.open(bench.out).manifest.results
    monkeypatch.setattr(encodings, "SHARED_WORK", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    bench.out = bench.folder / "shared"
    assert bench.run() == 0
    assert Dataset.open(bench.out).manifest.results == alone


def test_a_stopped_run_leaves_no_manifest_and_no_loose_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("a.jsonl", [talk(n) for n in range(10)])
    assert bench.run() == 0
    monkeypatch.setattr(
        "medtune.data.preparation.Preparation.write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    assert bench.run("--set", "seed=9") == 130
    left = {path.name for path in bench.out.iterdir() if path.name not in (".gitignore", ".origin")}
    assert left == {"train.jsonl", "valid.jsonl", "test.jsonl", "rejected.jsonl", "images", "encodings"}


def test_a_base64_image_of_a_chat_export_becomes_a_file(bench: Bench) -> None:
    import base64

    data = io.BytesIO()
    Image.new("RGB", (30, 30), (9, 99, 9)).save(data, "JPEG")
    url = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    content = [{"type": "text", "text": "看"}, {"type": "image_url", "image_url": {"url": url}}]
    rows = [{"messages": [{"role": "user", "content": content}, turns("", f"好{n}")[1]]} for n in range(3)]
    bench.write("a.jsonl", rows)
    assert bench.run() == 0
    assert {(record.messages[0].content, len(record.images)) for record in bench.all().values()} == {("看<image>", 1)}


def test_off_means_off_in_the_file_too(bench: Bench) -> None:
    bench.config.write_text(bench.config.read_text().replace("privacy: reject", "privacy: off"))
    bench.write("a.jsonl", [talk(n, messages=turns(f"电话1381234567{n}", f"好的{n}")) for n in range(10)])
    assert bench.run() == 0 and len(bench.all()) == 10
