"""Tools called bare from the project's root, as the original's were: the default run and what it remembers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from medtune import cli, files
from medtune.dataset import Dataset
from tests import fakerun
from tests.deployed import write_run
from tests.workshop import SETTINGS, write_dataset
from tools import deploy_to_lmstudio, make_report, monitor_training, test_v2_model


def test_the_monitor_and_the_report_take_the_default_run_else_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medtune.report.figures.DRAWINGS", {})
    for age, name in enumerate(("adapters_v4", "adapters_v3")):
        made = fakerun.write_run(tmp_path / f"made-{name}", "training")
        shutil.move(made, tmp_path / name)
        for file in (tmp_path / name).iterdir():
            os.utime(file, (1e9 + age, 1e9 + age))
    assert cli.call(monitor_training.main, ["--once"]) == 0
    assert "adapters_v3: finished" in capsys.readouterr().out
    shutil.move(tmp_path / "adapters_v4", tmp_path / "adapters_v2")
    assert cli.call(monitor_training.main, ["--once"]) == 0
    assert "adapters_v2: finished" in capsys.readouterr().out
    assert cli.call(make_report.main, []) == 0
    assert (tmp_path / "docs/reports/adapters_v2/REPORT.md").exists()


@pytest.mark.parametrize("tool", [monitor_training, make_report, test_v2_model, deploy_to_lmstudio])
def test_without_any_run_a_bare_tool_says_in_one_line_what_to_type(
    tool: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.call(tool.main, []) == 1  # type: ignore[attr-defined]
    assert capsys.readouterr().err == (
        "error: no run here: adapters_v2 does not exist; run `make train` first, or name one\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_remembers_no_settings_says_which_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapters_v2").mkdir()
    assert cli.call(test_v2_model.main, ["--cli"]) == 1
    assert "--config configs/PROFILE/eval.yaml" in capsys.readouterr().err


@pytest.fixture
def project(tmp_path: Path, dense_twin: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run on the twin that remembers its profile, the profile, and the data."""
    run = write_run(tmp_path / "adapters_v2", dense_twin, size=0.5)
    shutil.move(write_dataset(tmp_path / "made", dense_twin), tmp_path / "data")
    receipt = files.read_json(run / "training.json")
    receipt["results"]["dataset"] = {"path": "data", "hash": Dataset.open(tmp_path / "data").hash}
    files.write_json(run / "training.json", receipt | {"config": SETTINGS})
    gate = {"accuracy": -1.0, "warmth": -1.0, "vision": -1.0, "superior": 0, "pass_rate": {}}
    settings = {"bench": str(root / "data/bench"), "max_tokens": 4, "batch_size": 8, "max_items": 1, "seed": 0}
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/eval.yaml").write_text(yaml.safe_dump(settings | {"gate": gate}), encoding="utf-8")
    (run / ".origin").write_text("profile data\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_bare_evaluation_and_a_bare_conversation_use_what_the_run_remembers(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = iter(["血压高吗?", "/quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(said))
    assert cli.call(test_v2_model.main, ["--cli"]) == 0
    assert next(said, None) is None
    assert cli.call(test_v2_model.main, []) == 0, capsys.readouterr().err
    assert files.read_json(project / "adapters_v2/evaluation.json")["results"]["max_tokens"] == 4
