"""A run's folder alone, on another machine that has the base model: it talks, is deployed and reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medtune import cli
from medtune.demo.random_model import write_twin
from medtune.deployment.proof import stack
from medtune.run import Run
from tests.workshop import settings_file, write_dataset
from tools import deploy_to_lmstudio, make_report, monitor_training, test_v2_model, train_final


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A project with a finished run of its own in `adapters_v2`."""
    project = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        shutil.copytree(root / "configs", "configs")
        write_twin("models/doctor/small", moe=False, layers=2)
        data = write_dataset(project / "made", project / "models/doctor/small")
        shutil.move(data, "data/processed")
        settings_file(project / "configs/demo/train.yaml", Path("models/doctor/small"))
        arguments = [
            "data/processed",
            "--config",
            "configs/demo/train.yaml",
            "--out",
            "adapters_v2",
            "--cache",
            "cache",
        ]
        assert cli.call(train_final.main, arguments) == 0
    return project


@pytest.fixture
def elsewhere(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another checkout with the run alone, and the base model."""
    for name in ("configs", "adapters_v2", "models"):
        shutil.copytree(trained / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stack, "interpreter", lambda: None)
    return tmp_path


def _all_but_the_test(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(test_v2_model.main, ["--prompt", "血压 140/90 要紧吗?"]) == 0
    assert cli.call(monitor_training.main, ["--once"]) == 0
    assert cli.call(deploy_to_lmstudio.main, []) == 0
    assert cli.call(deploy_to_lmstudio.main, ["--prove"]) == 0
    assert cli.call(make_report.main, ["--lang", "en"]) == 0
    assert "L1 own stack: passed" in capsys.readouterr().out


def test_it_talks_is_watched_deployed_proved_and_reported(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _all_but_the_test(capsys)
    assert (elsewhere / "docs/reports/adapters_v2/REPORT.md").exists()


def test_what_the_evaluation_lacks_is_said_in_one_line(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--review"], ["adapters_v2", "data/processed"]):
        assert cli.call(test_v2_model.main, arguments) == 1
        said = capsys.readouterr().err
        assert "the data set data/processed is not here" in said and said.count("\n") == 1


def test_a_base_of_the_same_name_among_lm_studios_models_is_the_base(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = Path.home() / ".lmstudio" / "models"
    models.mkdir(parents=True)
    shutil.move(elsewhere / "models/doctor", models / "doctor")
    _all_but_the_test(capsys)
    assert Run.chosen(None).deployment.results["lmstudio"]["installed"]


def test_another_base_under_that_name_is_not(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(elsewhere / "models")
    models = Path.home() / ".lmstudio" / "models"
    write_twin(models / "doctor/small", moe=False, layers=2, seed=1)
    assert cli.call(deploy_to_lmstudio.main, []) == 1
    said = capsys.readouterr().err
    assert "not the weights of the training" in said and said.count("\n") == 1
