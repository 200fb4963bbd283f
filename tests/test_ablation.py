"""The ablation: two runs that differ in the penalty term alone, compared item by item."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from medtune import cli
from medtune.bench import ablation, ablation_screen
from medtune.receipt import Receipt
from medtune.training import job
from tests.test_evaluation_tool import EVAL
from tests.workshop import SETTINGS, settings_file, write_dataset
from tools import ablate_objective


@pytest.fixture
def place(dense_twin: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and settings."""
    monkeypatch.setattr(cli, "CACHE", tmp_path / "trunk")
    write_dataset(tmp_path, dense_twin)
    settings_file(tmp_path / "train.yaml", dense_twin)
    shutil.copytree(root / "data/bench", tmp_path / "bench")
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump({"bench": str(tmp_path / "bench"), **EVAL}), encoding="utf-8")
    return tmp_path


def ablate(place: Path, *more: str) -> int:
    settings = ["--config", str(place / "train.yaml"), "--eval", str(place / "eval.yaml")]
    return cli.call(ablate_objective.main, [str(place / "dataset"), *settings, "--out", str(place / "out"), *more])


def test_both_runs_share_everything_but_the_penalty_term_and_the_trunk_runs_once(place: Path):
    assert ablate(place) == 0
    runs = {name: Receipt.read(place / "out" / name / "training.json") for name in ("without", "with")}
    assert runs["without"].config["objective"].pop("negatives") == "off"
    assert runs["with"].config["objective"].pop("negatives") == "auto"
    assert runs["without"].config == runs["with"].config
    assert all(one.results["trunk"]["used"] for one in runs.values())
    results = Receipt.read(place / "out/ablation.json").results
    assert results["runs"]["with"]["val_loss"] == runs["with"].results["val_loss"]["best"]
    assert results["items"] == 6 and set(results["dimensions"]) == {"accuracy", "warmth", "vision"}
    page = (place / "out/ABLATION.md").read_text(encoding="utf-8")
    assert f"{results['runs']['without']['val_loss']:.4f}" in page and "95 % interval" in page


def test_a_second_call_trains_and_asks_nothing(place: Path, monkeypatch: pytest.MonkeyPatch):
    assert ablate(place) == 0
    monkeypatch.setattr(job, "assemble", None)
    assert ablate(place) == 0


def test_a_killed_ablation_goes_on_with_the_run_that_is_missing(place: Path, monkeypatch: pytest.MonkeyPatch):
    assemble = job.assemble
    trained: list[str] = []

    def once(dataset: object, base: object, settings: object, run: Path, cache: Path) -> job.TrainingJob:
        trained.append(run.name)
        if trained == ["without", "with"]:
            raise KeyboardInterrupt
        return assemble(dataset, base, settings, run, cache)  # type: ignore[arg-type]

    monkeypatch.setattr(job, "assemble", once)
    assert ablate(place) == 130
    assert ablate(place) == 0
    assert trained == ["without", "with", "with"]


def test_without_a_penalty_term_there_is_nothing_to_take_away(place: Path, capsys: pytest.CaptureFixture[str]):
    assert ablate(place, "--set", "objective.negatives=off") == 1
    assert "there is no penalty term" in capsys.readouterr().err
    assert not (place / "out").exists()


def test_the_page_says_no_more_than_the_interval_allows():
    def found(low: float, high: float) -> str:
        overall = {"ci_low": low, "ci_high": high, "delta": (low + high) / 2, "detectable": 0.1}
        return ablation_screen.sentence({"overall": overall})

    assert "better, by +0.150" in found(0.1, 0.2)
    assert "worse, by -0.150" in found(-0.2, -0.1)
    assert "No difference beyond chance" in found(-0.1, 0.2)


def test_the_reference_settings_keep_their_own_choice_of_the_cache(place: Path):
    settings = ablation.AblationConfig.model_validate(
        {
            "train": {"base_model": "x", **SETTINGS, "trunk_cache": "off"},
            "evaluation": {"bench": "x", **EVAL},
        }
    )
    arms = ablation.Ablation(place, settings, place / "out", place / "cache").arms
    assert {arm.trunk_cache for arm in arms.values()} == {"off"}
