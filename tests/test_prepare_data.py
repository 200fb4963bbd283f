"""prepare_data through its command line: splits without leaks, figures that are true, runs that can be repeated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from medtune.data import encodings
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.model.base import Base
from medtune.model.renderer import Renderer
from medtune.records import SPLITS
from tests.preparing import Bench, talk, turns


@pytest.fixture
def bench(tmp_path: Path, demo_model: Path) -> Bench:
    return Bench(tmp_path, demo_model)


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
    assert left == {
        "train.jsonl",
        "valid.jsonl",
        "test.jsonl",
        "rejected.jsonl",
        "sources.jsonl",
        "images",
        "encodings",
    }


def test_what_a_killed_run_half_wrote_of_rows_and_images_is_gone_after_the_next(bench: Bench) -> None:
    bench.write("a.jsonl", [talk(n) for n in range(10)])
    for folder in (bench.out, bench.out / "images", bench.out / "encodings"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".partial-4711-rejected.jsonl").write_text("张伟 13800138000")
    assert bench.run() == 0
    assert [str(path) for path in bench.out.rglob(".partial-*")] == []
