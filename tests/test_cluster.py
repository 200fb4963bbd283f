"""Two processes train as one: the same losses, one set of files, and a clear word when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

from medtune import files
from medtune.receipt import Receipt
from medtune.training.cluster import Cluster
from medtune.training.sampler import order
from tests.workshop import settings_file, write_dataset

ROOT = Path(__file__).resolve().parents[1]


def command(dataset: Path, config: Path, run: Path, *extra: str) -> list[str]:
    tool = str(ROOT / "tools" / "train_final.py")
    return [sys.executable, tool, str(dataset), "--config", str(config), "--out", str(run), *extra]


def losses(run: Path, kind: str = "train") -> list[float]:
    return [row["loss"] for _, row in files.read_jsonl(run / "metrics.jsonl") if row["kind"] == kind]


def test_the_shares_of_a_batch_make_the_batch():
    drawn = order(["accuracy"] * 9 + ["warmth"] * 5, [5] * 14, {"accuracy": 0.6, "warmth": 0.4}, 7, 4, seed=1)
    for chosen in drawn:
        shares = [Cluster(None, rank, 2).share(chosen) for rank in range(2)]
        assert sorted(shares[0] + shares[1]) == sorted(chosen) and len(shares[0]) == len(shares[1])


def test_two_processes_give_the_losses_of_one_and_go_on_after_a_stop(dense_twin: Path, tmp_path: Path):
    dataset = write_dataset(tmp_path, dense_twin)
    config = settings_file(tmp_path / "train.yaml", dense_twin, iters=8, save_every=2, steps_per_eval=4)
    one, two = (tmp_path / f"work{n}" for n in (1, 2))
    for work in (one, two):
        work.mkdir()
    subprocess.run(command(dataset, config, tmp_path / "one"), cwd=one, check=True, capture_output=True)
    done = subprocess.run(
        command(dataset, config, tmp_path / "two", "--hosts", "2"), cwd=two, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert losses(tmp_path / "two", "valid") == pytest.approx(losses(tmp_path / "one", "valid"), rel=1e-5)
    results = Receipt.read(tmp_path / "two" / "training.json").results
    assert (
        results["steps"] == 8
        and results["tokens"] == Receipt.read(tmp_path / "one" / "training.json").results["tokens"]
    )
    a, b = (mx.load(str(tmp_path / run / "adapters.safetensors")) for run in ("one", "two"))
    assert all(mx.allclose(a[name], b[name], rtol=1e-3, atol=1e-5) for name in a)


def test_a_machine_that_dies_ends_all_with_a_clear_word_and_a_checkpoint(dense_twin: Path, tmp_path: Path):
    dataset = write_dataset(tmp_path, dense_twin)
    config = settings_file(tmp_path / "train.yaml", dense_twin, iters=4000, save_every=2, steps_per_eval=1000)
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(dataset, config, run, "--hosts", "2"),
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not (run / "resume.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = subprocess.run(
        ["pgrep", "-f", "--", f"--out {run} .*--worker"], capture_output=True, text=True
    ).stdout.split()
    victim = max(int(pid) for pid in workers)
    os.kill(victim, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert err.startswith("error: a machine failed; the last checkpoint is kept")
    assert (run / "resume.safetensors").exists() and not (run / "training.json").exists()


def test_a_batch_that_cannot_be_shared_is_refused(dense_twin: Path, tmp_path: Path):
    dataset = write_dataset(tmp_path, dense_twin)
    config = settings_file(tmp_path / "train.yaml", dense_twin, batch_size=3)
    done = subprocess.run(
        command(dataset, config, tmp_path / "run", "--hosts", "2"), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and "cannot be shared by 2 machines" in done.stdout + done.stderr
    assert json.dumps(done.stderr).count("Traceback") == 0
