"""A person's work is never overwritten: real make, real tools, and the mistakes people make.

Each answer is one line, and what it says to type works when pasted.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from medtune import files
from medtune.receipt import Receipt
from tests.test_makefile import age
from tests.workshop import question, settings_file

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "data": """{tokenizer: MODEL, sources: [{path: data/raw/demo}], system_prompt: "", max_seq_length: 512,
        max_image_edge: 256, valid_fraction: 0.2, test_fraction: 0.2, seed: 0, privacy: off, dedup: off}""",
    "eval": """{bench: ROOT/data/bench, max_tokens: 2, batch_size: 8, max_items: 2, seed: 0,
        gate: {accuracy: -1.0, warmth: -1.0, vision: -1.0, superior: 0, pass_rate: {}}}""",
    "deploy": """{publisher: medtune, name: tiny, precision: bf16, system_prompt: training, home: ""}""",
}
READERS = ("chat", "test-model", "deploy", "prove", "report", "export OUT=x")
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, dense_twin: Path) -> Path:
    """A project in which `make train` was run."""
    root = tmp_path_factory.mktemp("project")
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "tools"):
        (root / name).symlink_to(ROOT / name)
    raw = root / "data/raw/demo"
    (raw / "images").mkdir(parents=True)
    rng = random.Random(0)
    files.write_jsonl(raw / "records.jsonl", (question(n, rng, raw, False).to_json() for n in range(42)))
    for profile in ("demo", "other"):
        write_configs(root / "configs" / profile, dense_twin)
    python = root / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/bash\nPYTHONPATH={ROOT / "lib"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    age(root / "configs", 1000)
    (root / ".venv/.medtune").touch()
    make(root, "train")
    return root


def write_configs(folder: Path, model: Path) -> None:
    folder.mkdir(parents=True)
    settings_file(folder / "train.yaml", model)
    for name, text in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(text.replace("MODEL", str(model)).replace("ROOT", str(ROOT)))


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """A copy of one's own."""
    return shutil.copytree(trained, tmp_path / "project", symlinks=True)


def run(project: Path, command: str, code: int = 0) -> str:
    """Type a command; returns what it said."""
    done = subprocess.run(
        command, shell=True, cwd=project, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    said = done.stdout + done.stderr
    assert (done.returncode != 0) == bool(code) and "Traceback" not in said, f"{command}\n{said}"
    return said


def make(project: Path, words: str, code: int = 0) -> str:
    return run(project, f"make {words}", code)


def answer(said: str) -> str:
    """The one line of a refusal."""
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


def commands(line: str) -> list[str]:
    """What it says to type."""
    return re.findall(r"`((?:make|/)[^`]*)`", line)


def contents(folder: Path) -> dict[str, str]:
    """Digest and date of every file: nothing of it is touched."""
    return {
        str(path.relative_to(folder)): f"{files.sha256(path)} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(project: Path, words: str, folder: Path) -> list[str]:
    """The call is refused in one line, the folder stays as it is to the last byte; returns what to type instead."""
    before, places = contents(folder), sorted(project.rglob("*"))
    line = answer(make(project, words, code=1))
    assert contents(folder) == before and sorted(project.rglob("*")) == places
    assert commands(line), line
    return commands(line)


@pytest.mark.parametrize("config", [True, False])
def test_a_friends_adapters_are_neither_trained_over_nor_taken_for_a_run(project: Path, config: bool) -> None:
    friend = project / "adapters_friend"
    friend.mkdir()
    for name in ("adapters.safetensors", "adapter_config.json")[: 1 + config]:
        shutil.copy(project / "adapters_v2" / name, friend)
    (friend / "letter.txt").write_text("for you")
    for words in (*READERS, "all", "train") if config else ("train", "chat"):
        typed = refused(project, f"{words} RUN=adapters_friend", friend)
    before = contents(friend)
    run(project, typed[-1])
    assert (project / "adapters_friend_2/training.json").exists() and contents(friend) == before


@pytest.mark.parametrize("base", ["base_model_name_or_path", "model"])
def test_adapters_that_name_their_base_are_imported_by_what_is_said(project: Path, base: str, dense_twin: Path) -> None:
    friend = shutil.copytree(project / "adapters_v2", project / "adapters_friend")
    for path in friend.iterdir():
        if path.name not in ("adapters.safetensors", "adapter_config.json"):
            path.unlink()
    told = files.read_json(friend / "adapter_config.json")
    files.write_json(friend / "adapter_config.json", told | {base: str(dense_twin)})
    (typed,) = refused(project, "chat RUN=adapters_friend", friend)
    assert typed == refused(project, "train RUN=adapters_friend", friend)[0]
    run(project, typed)
    make(project, "chat RUN=adapters_friend_2")


def test_adapters_are_not_imported_over_others(project: Path, dense_twin: Path) -> None:
    friend = project / "friend"
    friend.mkdir()
    for name in ("adapters.safetensors", "adapter_config.json"):
        shutil.copy(project / "adapters_v2" / name, friend)
    for target in ("adapters_v2", "friend"):
        (typed,) = refused(project, f"import FROM=friend BASE={dense_twin} RUN={target}", project / target)
    run(project, typed)
    assert (project / "friend_2/training.json").exists()


def test_a_finished_run_whose_receipt_was_deleted_is_not_started_over(project: Path) -> None:
    run_folder, typed = project / "adapters_v2", []
    (run_folder / "training.json").unlink()
    for words in (*READERS, "all", "train"):
        if words != "report":  # which tells what the metrics do
            typed = refused(project, words, run_folder)
    assert len(typed) == 2, typed
    for command in typed:
        run(project, command)
        assert (project / "adapters_v3/training.json").exists()
        shutil.rmtree(project / "adapters_v3")


def test_what_is_edited_for_the_next_run_leaves_the_finished_one_alone(project: Path) -> None:
    config = project / "configs/demo/train.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    (project / "data/raw/demo/new.jsonl").write_text("{ not JSON")
    before = contents(project / "data/processed")
    for words in ("chat", "test-model", "deploy", "prove", "report"):
        make(project, words)
    assert contents(project / "data/processed") == before
    (project / "data/raw/demo/new.jsonl").unlink()
    (typed,) = refused(project, "train", project / "adapters_v2")
    run(project, typed)
    assert Receipt.read(project / "adapters_v3/training.json").config["seed"] == 1
    deploy = project / "configs/demo/deploy.yaml"
    deploy.write_text(deploy.read_text().replace("name: tiny", "name: next"))
    assert "tiny: removed" in make(project, "undeploy"), "what is deployed, not what is to be"


def started(project: Path, words: str) -> subprocess.Popen[str]:
    """A make that is under way and has taken a step; its group is its own, as a terminal's."""
    process = subprocess.Popen(
        f"make {words}", shell=True, cwd=project, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    log = project / "adapters_x/metrics.jsonl"
    while not (log.exists() and '"kind": "train"' in log.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


LONG = 'RUN=adapters_x PROFILE=other SET="iters=400 steps_per_eval=200 save_every=50"'


def test_of_two_trainings_in_one_folder_the_second_is_refused_and_the_first_is_not_lost(project: Path) -> None:
    first = started(project, f"train {LONG}")
    for second in (f"train {LONG}", "import FROM=adapters_v2 BASE=x RUN=adapters_x"):
        line = answer(make(project, second.replace("BASE=x", f"BASE={base_of(project)}"), code=1))
        assert "adapters_x: medtune is at work there already" in line
    out, err = first.communicate(timeout=300)
    assert first.returncode == 0, out + err
    assert Receipt.read(project / "adapters_x/training.json").results["steps"] == 400


def base_of(project: Path) -> str:
    return yaml.safe_load((project / "configs/demo/train.yaml").read_text())["base_model"]


def test_a_run_started_with_set_goes_on_with_it_however_it_is_asked_to(project: Path) -> None:
    process = started(project, f"train {LONG}")
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    (typed,) = commands(next(line for line in out.splitlines() if "saved at step" in line))
    assert typed == f"make train {LONG}"
    assert typed in run(project, ".venv/bin/python tools/monitor_training.py adapters_x --once")
    assert commands(answer(make(project, "chat RUN=adapters_x", code=1))) == [typed]
    before = contents(project / "adapters_x")
    again, elsewhere = commands(answer(make(project, 'train RUN=adapters_x SET="iters=400 seed=3"', code=1)))
    assert contents(project / "adapters_x") == before and "adapters_x_2" in elsewhere
    config = project / "configs/other/train.yaml"
    config.write_text(config.read_text().replace("batch_size: 4", "batch_size: 8"))
    again, _ = commands(answer(make(project, "train RUN=adapters_x", code=1)))
    assert "batch_size=4" in again and "iters=400" in again
    assert "resuming at step" in run(project, again)
    done = Receipt.read(project / "adapters_x/training.json")
    assert done.results["steps"] == 400 and done.config["batch_size"] == 4
    make(project, "chat RUN=adapters_x")
    make(project, "test-model RUN=adapters_x")


def test_the_settings_a_run_was_started_with_need_not_be_said_again(project: Path) -> None:
    make(project, 'train RUN=adapters_x SET="iters=4 lora.keys=[q_proj,v_proj]"')
    assert "already done" in make(project, "train RUN=adapters_x")
    before = contents(project / "adapters_x")
    line = answer(make(project, 'train RUN=adapters_x SET="iters=5"', code=1))
    assert contents(project / "adapters_x") == before
    run(project, commands(line)[0])
    assert Receipt.read(project / "adapters_x_2/training.json").config["iters"] == 5


@pytest.mark.parametrize("words", [*READERS, "rollback", "undeploy", "plan"])
def test_what_only_reads_makes_no_folder(project: Path, words: str) -> None:
    before = sorted(project.rglob("*"))
    run(project, f"make {words} RUN=nope; true")
    run(project, ".venv/bin/python tools/monitor_training.py nope --once")
    assert sorted(project.rglob("*")) == before


def test_git_sees_neither_a_run_nor_a_data_set(project: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    make(project, "train RUN=mine DATA=prepared CONFIGS=configs/demo")
    told = subprocess.run(
        ["git", "status", "--short", "-uall"], cwd=project, capture_output=True, text=True, check=True
    )
    assert not [line for line in told.stdout.splitlines() if "mine/" in line or "prepared/" in line]


def test_data_is_not_prepared_over_splits_of_somebodys_own(project: Path) -> None:
    mine = project / "mine"
    mine.mkdir()
    shutil.copy(project / "data/raw/demo/records.jsonl", mine / "train.jsonl")
    (typed,) = refused(project, 'data DATA=mine CONFIGS=configs/demo SOURCES=mine/train.jsonl SET="seed=1"', mine)
    run(project, typed)
    done = Receipt.read(project / "mine_2/manifest.json")
    assert done.config["seed"] == 1 and files.sha256(mine / "train.jsonl") in done.inputs.values()


def test_a_tool_called_by_itself_with_a_name_make_cannot_read_says_what_works(project: Path) -> None:
    tool = ".venv/bin/python tools/train_final.py data/processed/demo"
    run(project, f"{tool} --config configs/demo/train.yaml --out 'my run' --set 'lr_schedule={{name: constant}}'")
    line = answer(run(project, f"{tool} --config configs/demo/train.yaml --out 'my run' --set seed=4", code=1))
    (typed,) = commands(line)
    assert "'my run_2'" in typed
    run(project, f"PYTHONPATH={ROOT / 'lib'} {typed}")
    assert Receipt.read(project / "my run_2/training.json").config["seed"] == 4
