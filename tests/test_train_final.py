"""The training tool as a person runs it: results, refusals, interruption and resume."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from medtune import cli, files
from medtune.model.base import Base
from medtune.model.renderer import Renderer
from medtune.receipt import Receipt
from medtune.run import WEIGHTS
from medtune.training import cluster, job, validation
from tests.workshop import SETTINGS, settings_file, write_dataset
from tools import train_final

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "CACHE", tmp_path / "trunk")


@pytest.fixture(scope="module")
def dataset(dense_twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), dense_twin)


def train(dataset: Path, config: Path, run: Path, *extra: str) -> int:
    return cli.call(train_final.main, [str(dataset), "--config", str(config), "--out", str(run), *extra])


def metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    return [row for _, row in files.read_jsonl(run / "metrics.jsonl") if row["kind"] == kind]


def losses(run: Path) -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in metrics(run, "train")]


def test_a_run_learns_and_leaves_everything_the_design_names(dataset: Path, dense_twin: Path, tmp_path: Path):
    config, run = settings_file(tmp_path / "train.yaml", dense_twin), tmp_path / "run"
    assert train(dataset, config, run, "--set", "iters=24", "--set", "steps_per_eval=8", "--set", "save_every=8") == 0
    results = Receipt.read(run / "training.json").results
    assert results["val_loss"]["best"] < 0.9 * results["val_loss"]["first"]
    assert results["trunk"]["used"] and results["trunk"]["layers"] == 2
    assert {path.name for path in run.glob("0*")} == {f"{step:07d}_adapters.safetensors" for step in (8, 16, 24)}
    assert len(list(run.glob("training_real_*.log"))) == 1
    assert [row["step"] for row in metrics(run, "valid")] == [1, 8, 16, 24]
    assert set(metrics(run, "valid")[0]["loss_by_dim"]) == {"accuracy", "warmth", "vision"}
    assert not (run / "resume.safetensors").exists()
    names = mx.load(str(run / WEIGHTS))
    assert sum(value.size for value in names.values()) == results["lora"]["trainable_parameters"]
    assert not any("gate" in name or "vision" in name for name in names)


def test_the_adapters_load_in_both_libraries_with_the_trainers_logits(dataset: Path, dense_twin: Path, tmp_path: Path):
    import mlx_lm
    import mlx_vlm

    config, run = settings_file(tmp_path / "train.yaml", dense_twin), tmp_path / "run"
    assert train(dataset, config, run) == 0
    base = Base.find(str(dense_twin))
    example = Renderer(base).encode(job.Dataset.open(dataset).split("test")[0], dataset)
    tokens = mx.array(example.tokens)[None]
    from medtune.model import adapters

    ours = base.load()
    plain = ours(tokens).logits
    adapters.load(ours, run)
    expected = ours(tokens).logits
    vlm, _ = mlx_vlm.load(str(dense_twin), adapter_path=str(run))
    lm, _ = mlx_lm.load(str(dense_twin), adapter_path=str(run))
    assert not mx.allclose(plain, expected, atol=1e-3)
    assert mx.allclose(vlm(tokens).logits, expected, atol=1e-5)
    assert mx.allclose(lm(tokens), expected, atol=1e-4)


def test_the_same_command_again_says_it_is_done_and_another_config_is_refused(
    dataset: Path, dense_twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config, run = settings_file(tmp_path / "train.yaml", dense_twin), tmp_path / "run"
    assert train(dataset, config, run) == 0
    before = (run / WEIGHTS).read_bytes()
    capsys.readouterr()
    assert train(dataset, config, run) == 0
    assert "already done" in capsys.readouterr().out
    assert train(dataset, config, run, "--set", "lora.rank=8") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "lora.rank" in error and "RUN=" in error and error.count("\n") == 1
    assert (run / WEIGHTS).read_bytes() == before and (run / "training.json").exists()


def test_a_data_set_counted_with_another_tokenizer_is_refused(
    dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any
):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-R", str(dataset), str(copy)], check=True)
    manifest = Receipt.read(copy / "manifest.json")
    manifest.results["tokenizer"]["hash"] = "0" * 64
    manifest.write(copy / "manifest.json")
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    assert train(copy, config, tmp_path / "run") == 1
    assert "another tokenizer" in capsys.readouterr().err


def test_a_missing_base_model_is_one_line_that_says_where_it_looked(dataset: Path, tmp_path: Path, capsys: Any):
    config = settings_file(tmp_path / "train.yaml", Path("nobody/nothing"))
    assert train(dataset, config, tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: nobody/nothing: ") and "looked in" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("itrs=3", "itrs: no such key; did you mean iters?"),
        ("optimizer.learning_rate=5e-6", "'5e-6' is text to YAML; write 5.0e-6"),
        ("lora.rank=zwei", "--set lora.rank=zwei: lora.rank: 'zwei'"),
        ("lora.num_layers=9", "has 4 decoder layers"),
        ("lora.keys=[q_proj,qq_proj]", "no module qq_proj; choose from"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(
    dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any, change: str, said: str
):
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    assert train(dataset, config, tmp_path / "run", "--set", change) == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


# Every key of train.yaml must change something: a value, and what of the run differs by it.
EFFECTS = {
    "seed": 1,
    "iters": 4,
    "batch_size": 2,
    "optimizer": SETTINGS["optimizer"] | {"name": "sgd"},
    "optimizer.learning_rate": 2.0e-2,
    "optimizer.weight_decay": 5.0,
    "optimizer.grad_clip": 0.001,
    "lr_schedule": {"name": "constant"},
    "lr_schedule.warmup": 4,
    "lr_schedule.final": 1.0,
    "lora.rank": 2,
    "lora.alpha": 2.0,
    "lora.dropout": 0.5,
    "lora.num_layers": 1,
    "lora.keys": ["q_proj"],
    "lora.rslora": True,
    "lora.dora": True,
    "lora.plus_ratio": 8.0,
    "lora.neftune": 10.0,
    "lora.vision": True,
    "lora.merger": True,
    "objective.share": "loss",
    "objective.negatives": "off",
    "objective.beta": 5.0,
    "objective.gamma": 5.0,
    "objective.priorities": {
        d: {"weight": 1.0, "reward": 1.0, "penalty": 9.0} for d in ("accuracy", "warmth", "vision")
    },
    "select.by": "last",
}


@pytest.fixture(scope="module")
def reference(dataset: Path, dense_twin: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("reference")
    assert train(dataset, settings_file(folder / "train.yaml", dense_twin), folder / "run", *SLOW_SELECT) == 0
    return adapters_of(folder / "run")


SLOW_SELECT = ("--set", "select.by=last")


def adapters_of(run: Path) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in mx.load(str(run / WEIGHTS)).items()}


@pytest.mark.parametrize("key", [key for key in EFFECTS if key != "select.by"])
def test_every_setting_has_an_effect_on_the_adapters(
    dataset: Path, dense_twin: Path, tmp_path: Path, reference: dict[str, np.ndarray], key: str
):
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    assert train(dataset, config, tmp_path / "run", *SLOW_SELECT, "--set", f"{key}={json.dumps(EFFECTS[key])}") == 0
    now = adapters_of(tmp_path / "run")
    same = now.keys() == reference.keys() and all(np.array_equal(now[name], reference[name]) for name in now)
    assert not same


def test_micro_batches_and_checkpointing_change_nothing_but_memory(
    dataset: Path, dense_twin: Path, tmp_path: Path, reference: dict[str, np.ndarray]
):
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    for index, change in enumerate(("grad_accumulation_steps=2", "grad_checkpoint=on", "trunk_cache=off")):
        run = tmp_path / f"run{index}"
        assert train(dataset, config, run, *SLOW_SELECT, "--set", change) == 0
        for name, value in adapters_of(run).items():
            np.testing.assert_allclose(value, reference[name], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("kind", ["off", "unlikelihood", "apo", "kto", "dpo", "orpo"])
def test_every_kind_of_negatives_learns_and_says_what_it_leaves_out(
    dataset: Path, dense_twin: Path, tmp_path: Path, kind: str
):
    goal = SETTINGS["objective"] | {"negatives": kind, "gamma": 2.0}
    config = settings_file(tmp_path / "train.yaml", dense_twin, objective=goal, iters=20, steps_per_eval=10)
    assert train(dataset, config, tmp_path / "run") == 0
    valid = metrics(tmp_path / "run", "valid")
    assert valid[-1]["loss"] < valid[0]["loss"]
    assert sum(valid[-1]["gradient_share"].values()) == pytest.approx(1.0)
    results = Receipt.read(tmp_path / "run" / "training.json").results
    if kind in ("off", "unlikelihood", "apo", "kto"):  # what dpo and orpo leave out depends on the split of the pairs
        assert (results["unused_records"] == 0) == (kind in ("apo", "kto"))


def test_kto_with_a_tiny_micro_batch_and_dpo_without_pairs_are_refused(
    dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any
):
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    assert train(dataset, config, tmp_path / "run", "--set", "objective.negatives=kto", "--set", "batch_size=2") == 1
    assert "kto needs 4 examples" in capsys.readouterr().err
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-R", str(dataset), str(copy)], check=True)
    rows = [json.loads(line) for line in (copy / "train.jsonl").read_text().splitlines()]
    (copy / "train.jsonl").write_text("".join(json.dumps(row | {"pair": None}) + "\n" for row in rows))
    manifest = Receipt.read(copy / "manifest.json")
    manifest.outputs["train.jsonl"] = files.sha256(copy / "train.jsonl")
    manifest.write(copy / "manifest.json")
    assert train(copy, config, tmp_path / "run", "--set", "objective.negatives=dpo") == 1
    assert "no two records share a pair" in capsys.readouterr().err


def test_patience_stops_early_and_keeps_the_best(dataset: Path, dense_twin: Path, tmp_path: Path):
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    changes = (
        "iters=40",
        "optimizer.learning_rate=0.3",
        "lr_schedule={name: constant}",
        "steps_per_eval=2",
        "select.patience=2",
    )
    assert train(dataset, config, tmp_path / "run", *(x for c in changes for x in ("--set", c))) == 0
    results = Receipt.read(tmp_path / "run" / "training.json").results
    assert results["stopped"] == "early_stop" and results["steps"] < 40
    assert results["selected"]["val_loss"] == min(row["loss"] for row in metrics(tmp_path / "run", "valid"))
    assert results["checkpoints"][-1]["step"] == results["steps"], "what was learnt up to there is kept"
    assert [row["name"] for row in metrics(tmp_path / "run", "event")] == ["start", "early_stop"]


def test_a_run_that_stops_before_its_first_report_has_a_receipt(dataset: Path, dense_twin: Path, tmp_path: Path):
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    changes = ("iters=40", "optimizer.learning_rate=0.3", "steps_per_report=100", "save_every=100",
               "steps_per_eval=2", "select.patience=1", "select.by=last")  # fmt: skip
    assert train(dataset, config, tmp_path / "run", *(x for c in changes for x in ("--set", c))) == 0
    results = Receipt.read(tmp_path / "run" / "training.json").results
    assert results["steps"] < 40 and results["train_loss"]["first"] == results["train_loss"]["last"] > 0


def test_a_run_whose_best_is_before_its_first_step_says_that_nothing_was_learned(
    dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any
):
    config = settings_file(tmp_path / "train.yaml", dense_twin, iters=4, steps_per_eval=2)
    assert train(dataset, config, tmp_path / "run", "--set", "optimizer.learning_rate=10") == 1
    assert "nothing was learned" in capsys.readouterr().err and not (tmp_path / "run" / "training.json").exists()


def test_a_validation_loss_that_is_no_number_is_one_line(
    dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    monkeypatch.setattr(validation, "validate", lambda *_: (validation.Losses(float("nan"), {}, 1), None))
    assert train(dataset, config, tmp_path / "run") == 1
    assert "validation loss is not finite" in capsys.readouterr().err


def test_no_image_is_left_in_the_run_and_the_same_data_prepared_again_is_the_same(
    dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any
):
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    assert train(dataset, config, tmp_path / "run") == 0
    assert not list((tmp_path / "run").rglob("*.png"))
    again = shutil.copytree(dataset, tmp_path / "again")
    manifest = Receipt.read(again / "manifest.json")
    replace(manifest, finished="later", seconds=9.0).write(again / "manifest.json")
    assert train(again, config, tmp_path / "run") == 0
    assert "already done" in capsys.readouterr().out


def test_a_loss_that_is_no_number_names_the_examples(
    dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    from medtune.training import step

    config = settings_file(tmp_path / "train.yaml", dense_twin)
    honest = step.learning_rate
    monkeypatch.setattr(step, "learning_rate", lambda c, n: float("nan") if n == 4 else honest(c, n))
    assert train(dataset, config, tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "step 5" in error and "r" in error and (tmp_path / "run" / "0000003_adapters.safetensors").exists()
    assert not (tmp_path / "run" / "training.json").exists()


def start(dataset: Path, config: Path, run: Path, cache: Path) -> subprocess.Popen[str]:
    code = (
        "import sys; from pathlib import Path; from medtune import cli;"
        "from medtune.model import runtime; runtime.start();"
        "from tools import train_final;"
        f"cli.CACHE = Path({str(cache)!r}); sys.exit(cli.call(train_final.main, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(dataset), "--config", str(config), "--out", str(run)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until the metrics speak of ``step``."""
    path = run / "metrics.jsonl"
    while process.poll() is None:
        lines = path.read_text().splitlines() if path.exists() else []
        if any(f'"kind": "train", "step": {step}' in line for line in lines):
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def interrupted_run(
    dataset: Path, config: Path, run: Path, cache: Path, steps: list[int], kind: signal.Signals
) -> None:
    for step in steps:
        process = start(dataset, config, run, cache)
        wait_for_step(run, step, process)
        os.kill(process.pid, kind)
        out, err = process.communicate(timeout=120)
        if kind == signal.SIGINT:
            assert process.returncode == 130 and "saved at step" in out, out + err
    assert train(dataset, config, run) == 0


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    dataset: Path, dense_twin: Path, tmp_path: Path, kind: signal.Signals
):
    changes = {"iters": 30, "save_every": 5, "steps_per_eval": 10, "lora": SETTINGS["lora"] | {"dropout": 0.1}}
    config = settings_file(tmp_path / "train.yaml", dense_twin, **changes)
    assert train(dataset, config, tmp_path / "whole") == 0
    interrupted_run(dataset, config, tmp_path / "cut", tmp_path / "trunk", [6, 18], kind)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert [r["loss"] for r in metrics(tmp_path / "cut", "valid")] == [
        r["loss"] for r in metrics(tmp_path / "whole", "valid")
    ]
    a, b = (mx.load(str(tmp_path / name / "0000030_adapters.safetensors")) for name in ("cut", "whole"))
    assert all(mx.array_equal(a[name], b[name]).item() for name in b)


@pytest.mark.slow("trains 600 steps, killed at twenty of them")
def test_killed_at_twenty_random_moments_a_run_ends_as_if_nothing_had_happened(
    dataset: Path, dense_twin: Path, tmp_path: Path
):
    changes = {"iters": 600, "save_every": 10, "steps_per_eval": 50, "lora": SETTINGS["lora"] | {"dropout": 0.1}}
    config = settings_file(tmp_path / "train.yaml", dense_twin, **changes)
    runs = {name: (dataset, config, tmp_path / name, tmp_path / f"trunk-{name}") for name in ("whole", "cut")}
    _, error = start(*runs["whole"]).communicate(timeout=300)
    assert (tmp_path / "whole" / "training.json").exists(), error
    rng = random.Random(0)
    for _ in range(20):
        process = start(*runs["cut"])
        time.sleep(rng.uniform(0.2, 6))
        process.kill()
        process.communicate(timeout=60)
    _, error = start(*runs["cut"]).communicate(timeout=300)
    assert (tmp_path / "cut" / "training.json").exists(), error
    for kind, fields in (("train", ("step", "loss", "lr", "grad_norm")), ("valid", ("step", "loss"))):
        cut, whole = ([[row[f] for f in fields] for row in metrics(tmp_path / name, kind)] for name in ("cut", "whole"))
        assert cut == whole
    a, b = (mx.load(str(tmp_path / name / "adapters.safetensors")) for name in ("cut", "whole"))
    assert all(mx.array_equal(a[name], b[name]).item() for name in b)


@pytest.mark.parametrize("patience", [None, 1])
def test_killed_between_its_last_step_and_its_receipt_a_run_is_finished_by_the_same_command(
    dataset: Path, dense_twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int | None
):
    changes = ("optimizer.learning_rate=0.1", "lr_schedule={name: constant}", "steps_per_eval=2", "iters=24")
    told = [word for change in (*changes, f"select.patience={patience or 'null'}") for word in ("--set", change)]
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    assert train(dataset, config, tmp_path / "whole", *told) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Receipt, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train(dataset, config, tmp_path / "cut", *told) == 130
    assert train(dataset, config, tmp_path / "cut") == 0
    whole, cut = (Receipt.read(tmp_path / name / "training.json") for name in ("whole", "cut"))
    for key in ("steps", "stopped", "selected", "val_loss", "tokens"):
        assert whole.results[key] == cut.results[key]
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert files.sha256(tmp_path / "whole" / WEIGHTS) == files.sha256(tmp_path / "cut" / WEIGHTS)
    assert not (tmp_path / "cut" / "resume.safetensors").exists()


def test_a_run_on_one_machine_is_not_stopped_by_what_asked_several_to_stop(
    dataset: Path, dense_twin: Path, tmp_path: Path
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / cluster.STOP).touch()
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    assert train(dataset, config, tmp_path / "run") == 0


def test_a_half_finished_run_of_other_settings_is_not_gone_on_with(
    dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any
):
    config = settings_file(tmp_path / "train.yaml", dense_twin, iters=40)
    process = start(dataset, config, tmp_path / "run", tmp_path / "trunk")
    wait_for_step(tmp_path / "run", 6, process)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert train(dataset, config, tmp_path / "run", "--set", "seed=5") == 1
    assert "unfinished training with other settings (seed)" in capsys.readouterr().err


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def test_a_base_model_that_was_cut_short_is_one_line(dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any):
    model = shutil.copytree(dense_twin, tmp_path / "model")
    _cut(model / "model.safetensors", -100)
    assert train(dataset, settings_file(tmp_path / "train.yaml", model), tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "model.safetensors: " in error and "download it again" in error and error.count("\n") == 1


@pytest.mark.parametrize("size", [0, 20, -100])
def test_a_damaged_state_says_how_to_start_anew(
    dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any, size: int, monkeypatch: pytest.MonkeyPatch
):
    from medtune.training import step

    config, run = settings_file(tmp_path / "train.yaml", dense_twin), tmp_path / "run"
    with monkeypatch.context() as patch:
        honest = step.learning_rate
        patch.setattr(step, "learning_rate", lambda c, n: float("nan") if n == 4 else honest(c, n))
        assert train(dataset, config, run) == 1
    _cut(run / "resume.safetensors", size)
    capsys.readouterr()
    assert train(dataset, config, run) == 1
    error = capsys.readouterr().err
    assert error == f"error: {run / 'resume.safetensors'}: damaged; remove it to start this run anew\n"
    (run / "resume.safetensors").unlink()
    assert train(dataset, config, run) == 0


@pytest.mark.parametrize(
    "changes",
    [
        "lora.num_layers=9",
        "lora.keys=[q_proj,qq_proj]",
        "objective.negatives=kto batch_size=2",
        "trunk_cache=on lora.neftune=5.0",
    ],
)
def test_the_plan_refuses_what_the_training_refuses_and_in_the_same_words(
    dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any, changes: str
):
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    overrides = [word for change in changes.split() for word in ("--set", change)]
    said = []
    for more in ((), ("--plan",)):
        assert train(dataset, config, tmp_path / "run", *overrides, *more) == 1
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and said[0].startswith("error: ")


def test_a_run_folder_that_is_a_file_is_one_line(dataset: Path, dense_twin: Path, tmp_path: Path, capsys: Any):
    (tmp_path / "run").touch()
    assert train(dataset, settings_file(tmp_path / "train.yaml", dense_twin), tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'run'}") and error.count("\n") == 1
