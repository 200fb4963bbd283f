"""Test data: a run folder as the stages leave it, with made-up but consistent figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tests import fakereceipts

BEGIN = 1_764_930_000.0  # seconds; the day of the original run


def metrics(steps: int = 200, until: int | None = None, end: str | None = "finish") -> list[dict[str, Any]]:
    """Rows of metrics.jsonl: one report per 10 steps of one second, one validation per 50, checkpoints with it."""
    until = steps if until is None else until
    rows: list[dict[str, Any]] = [event("start", 0, BEGIN, total_steps=steps, text="AdamW"), valid(0, BEGIN + 1)]
    for step in range(10, until + 1, 10):
        rows.append(train(step, BEGIN + 1 + step, steps))
        if step % 50 == 0:
            rows.append(valid(step, BEGIN + 1.5 + step))
            name = f"{step:07d}_adapters.safetensors"
            rows.append({"kind": "checkpoint", "step": step, "time": BEGIN + 2 + step, "file": name, "best": True})
    if end and until == steps:
        rows.append(event(end, until, BEGIN + 3 + until, text=""))
    return rows


def loss_at(step: int) -> float:
    return 0.3 + 0.542 * math.exp(-step / 60)


def train(step: int, time: float, steps: int = 200) -> dict[str, Any]:
    loss = loss_at(step) + 0.02 * math.sin(step)
    return {
        "kind": "train",
        "step": step,
        "time": time,
        "loss": loss,
        "loss_by_dim": {"accuracy": loss * 1.1, "warmth": loss * 0.8, "vision": loss * 1.2},
        "lr": 5e-6 * (1 + math.cos(math.pi * step / steps)) / 2,
        "grad_norm": 0.4 + 0.1 * math.sin(step / 7),
        "tokens": step * 240,
        "supervised_tokens": step * 90,
        "tokens_per_sec": 240.0,
        "it_per_sec": 1.0,
        "peak_memory_gb": 18.8,
        "padding_fraction": 0.034,
    }


def valid(step: int, time: float) -> dict[str, Any]:
    loss = loss_at(step)
    return {
        "kind": "valid",
        "step": step,
        "time": time,
        "loss": loss,
        "loss_by_dim": {"accuracy": loss * 1.05, "warmth": loss * 0.85, "vision": loss * 1.3},
        "supervised_tokens": 5000,
        "seconds": 0.5,
    }


def event(name: str, step: int, time: float, **more: Any) -> dict[str, Any]:
    return {"kind": "event", "step": step, "time": time, "name": name, **more}


def write_metrics(run: Path, rows: list[dict[str, Any]]) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    path = run / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_run(root: Path, *stages: str, steps: int = 200) -> Path:
    """A run folder with the receipts of the named stages (all of them by default) and the files they speak of."""
    stages = stages or ("manifest", "training", "evaluation", "deployment")
    run, data = root / "adapters_v2", root / "data"
    data.mkdir(parents=True, exist_ok=True)
    (data / "train.jsonl").write_text("{}\n")
    write_metrics(run, metrics(steps))
    (run / "adapters.safetensors").write_bytes(b"tuned" * 1000)
    (run / "adapter_config.json").write_text("{}")
    (run / "training_real_1764930000.log").write_text("a line\n")
    for step in range(50, steps + 1, 50):
        (run / f"{step:07d}_adapters.safetensors").write_bytes(b"tuned" * 1000)
    writers = {
        "manifest": lambda: fakereceipts.manifest(data),
        "training": lambda: fakereceipts.training(run, data, metrics()),
        "evaluation": lambda: fakereceipts.evaluation(run, data),
        "deployment": lambda: fakereceipts.deployment(run),
    }
    for stage in stages:
        folder = data if stage == "manifest" else run
        receipt = json.dumps(writers[stage](), ensure_ascii=False)
        (folder / f"{stage}.json").write_text(receipt, encoding="utf-8")
    return run
