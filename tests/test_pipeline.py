"""The whole chain on a tiny data set, through every tool's main: raw rows in, a deployed model and a report out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from workshop import settings_file, write_dataset

from medtune import cli, files
from medtune.receipt import Receipt
from tools import deploy_to_lmstudio, make_report, monitor_training, prepare_data, test_v2_model, train_final

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "data" / "bench"
RECEIPTS = ("manifest", "training", "evaluation", "deployment")


@dataclass(frozen=True)
class Project:
    """The folders of one chain and the calls that make it."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def data(self) -> Path:
        return self.root / "dataset"

    def receipt(self, stage: str) -> Path:
        return (self.data if stage == "manifest" else self.run) / f"{stage}.json"

    def config(self, stage: str, **values: object) -> str:
        path = self.root / f"{stage}.yaml"
        if values:
            path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return str(path)

    def stages(self) -> dict[str, tuple[Callable[[list[str] | None], None], list[str]]]:
        run, data = str(self.run), str(self.data)
        return {
            "manifest": (
                prepare_data.main,
                [str(self.root / "raw/records.jsonl"), "--config", str(self.root / "raw/data.yaml"), "--out", data],
            ),
            "training": (train_final.main, [data, "--config", self.config("train"), "--out", run]),
            "evaluation": (test_v2_model.main, [run, data, "--config", self.config("eval")]),
            "deployment": (deploy_to_lmstudio.main, [run, "--config", self.config("deploy")]),
            "report": (make_report.main, [run, "--out", str(self.root / "report"), "--lang", "en"]),
        }

    def call(self, stage: str) -> int:
        main, arguments = self.stages()[stage]
        return cli.call(main, arguments)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Iterator[Project]:
    """Every stage once."""
    made = Project(tmp_path_factory.mktemp("project"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medtune.cli.CACHE", made.root / "cache")
        yield finished(made, demo_model)


def finished(made: Project, demo_model: Path) -> Project:
    """Run the chain."""
    write_dataset(made.root, demo_model)
    settings_file(made.root / "train.yaml", demo_model)
    made.config(
        "eval", bench=str(BENCH), max_tokens=4, batch_size=8, max_items=2, seed=0,
        gate={"accuracy": -1.0, "warmth": -1.0, "vision": -1.0, "superior": 0, "pass_rate": {}},
    )  # fmt: skip
    made.config(
        "deploy", publisher="medtune", name="tiny", precision="bf16", system_prompt="training",
        home=str(made.root / "lmstudio"),
    )  # fmt: skip
    (made.root / "lmstudio").mkdir()
    assert {stage: made.call(stage) for stage in made.stages()} == dict.fromkeys(made.stages(), 0)
    return made


def test_every_stage_leaves_a_receipt_with_what_it_takes_to_repeat_it(project: Project) -> None:
    for stage in RECEIPTS:
        receipt = Receipt.read(project.receipt(stage))
        assert receipt.stage == stage
        assert receipt.commit and receipt.versions["mlx"] and receipt.machine["cores"]
        assert receipt.inputs and receipt.results and receipt.seconds > 0
        for name, digest in receipt.outputs.items():
            assert files.sha256(project.receipt(stage).parent / name) == digest


def test_the_architecture_names_every_result_of_every_receipt_and_every_key_of_the_metrics(project: Project) -> None:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    receipts = text.split("## Receipts")[1].split("\n## ")[0]
    for stage in RECEIPTS:
        told = receipts.split(f"- `{stage}.json`:")[1].split("\n- ")[0]
        for name in Receipt.read(project.receipt(stage)).results:
            assert re.search(rf"`[^`]*\b{name}\b[^`]*`", told), f"{stage}: {name}"
    for _, row in files.read_jsonl(project.run / "metrics.jsonl"):
        told = receipts.split(f"- `{row['kind']}`:")[1].split("\n- ")[0]
        assert [name for name in row if name not in ("kind", "step", "time") and name not in told] == []


def test_each_receipt_speaks_of_the_same_run(project: Project) -> None:
    training, evaluation = (Receipt.read(project.receipt(stage)).results for stage in ("training", "evaluation"))
    manifest = Receipt.read(project.receipt("manifest"))
    assert training["dataset"]["hash"] == files.hash_of(manifest.outputs)
    assert evaluation["base_model"]["hash"] == training["base_model"]["hash"]
    assert training["lora"]["adapter_bytes"] > 4 * training["lora"]["trainable_parameters"]


def test_the_deployed_folder_is_a_model_and_nothing_but_a_model(project: Project) -> None:
    deployed = Path(Receipt.read(project.receipt("deployment")).results["folder"])
    names = [path.name for path in deployed.iterdir()]
    assert not [name for name in names if "adapter" in name]
    assert not [path for path in deployed.rglob("*") if path.is_symlink()]
    assert {"config.json", "tokenizer.json", "preprocessor_config.json", "chat_template.jinja"} <= set(names)


def test_the_report_says_what_the_receipts_say(project: Project) -> None:
    report = (project.root / "report/REPORT.md").read_text(encoding="utf-8")
    training = Receipt.read(project.receipt("training")).results
    assert f"{training['lora']['trainable_parameters']:,}" in report
    assert f"{training['val_loss']['best']:.3f}" in report


def test_monitoring_a_finished_run_says_that_it_ended(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(monitor_training.main, [str(project.run), "--once"]) == 0
    assert "6/6" in capsys.readouterr().out.replace(" ", "")


def test_a_second_call_of_each_stage_does_nothing_and_says_so(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(project)
    for stage in RECEIPTS:
        assert project.call(stage) == 0
        assert "already done" in capsys.readouterr().out
    assert contents(project) == before


def contents(project: Project) -> dict[str, str]:
    """Digest of every file of the run and the data set."""
    folders = (project.run, project.data, project.root / "lmstudio")
    return {str(p): files.sha256(p) for folder in folders for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_report_only_reads(project: Project) -> None:
    before = {path: os.stat(path).st_mtime_ns for path in project.run.rglob("*")}
    assert project.call("report") == 0
    assert {path: os.stat(path).st_mtime_ns for path in project.run.rglob("*")} == before


def test_other_evaluation_settings_evaluate_again_and_leave_the_training_alone(project: Project) -> None:
    config = Path(project.config("eval"))
    settings = yaml.safe_load(config.read_text())
    trained = files.sha256(project.receipt("training"))
    config.write_text(yaml.safe_dump({**settings, "max_items": 1}))
    try:
        assert project.call("evaluation") == 0
        assert json.loads(project.receipt("evaluation").read_text())["config"]["max_items"] == 1
        assert files.sha256(project.receipt("training")) == trained
    finally:
        config.write_text(yaml.safe_dump(settings))


def test_other_training_settings_are_refused_with_the_way_to_go_on(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    main, arguments = project.stages()["training"]
    assert cli.call(main, [*arguments, "--set", "iters=7"]) == 1
    said = capsys.readouterr().err
    assert "(iters)" in said and f"RUN={project.run}_2 " in said and 'SET="iters=7"' in said
