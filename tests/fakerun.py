"""Test data: a run folder as the stages leave it, with made-up but consistent figures."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

DIMS = ("accuracy", "warmth", "vision")
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


# --- receipts

SEEN = {"accuracy": 80, "warmth": 60, "vision": 24}
PRIORITIES = {
    "accuracy": {"weight": 0.50, "reward": 2.0, "penalty": 3.0},
    "warmth": {"weight": 0.35, "reward": 1.0, "penalty": 1.5},
    "vision": {"weight": 0.15, "reward": 0.6, "penalty": 1.0},
}
QUESTION = "我的血压140/90，需要担心吗？"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    writers = {"manifest": manifest, "training": training, "evaluation": evaluation, "deployment": deployment}
    for stage in stages:
        folder = data if stage == "manifest" else run
        receipt = writers[stage](run, data)
        (folder / f"{stage}.json").write_text(json.dumps(receipt, ensure_ascii=False), encoding="utf-8")
    return run


def receipt(stage: str, results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "stage": stage,
        "config": {},
        "overrides": [],
        "inputs": {},
        "seeds": {"data": 0},
        "outputs": {},
        "results": results,
        "started": "2025-12-05T19:34:00+08:00",
        "finished": "2025-12-05T20:09:00+08:00",
        "seconds": 2110.5,
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": {"python": "3.11.2", "medtune": "2.0.0", "mlx": "0.32.4"},
        "machine": {"system": "Darwin", "processor": "Apple M4 Max", "cores": 16, "memory_gb": 64.0},
        **more,
    }


def manifest(run: Path, data: Path) -> dict[str, Any]:
    dims = {dim: {"desirable": 40, "undesirable": 12, "marked": 9} for dim in DIMS}
    split = {"records": 156, "tokens": 31200, "image_tokens": 4096, "supervised_tokens": 15600, "dimensions": dims}
    results = {
        "splits": {"train": split, "valid": split, "test": split},
        "rejected": {"total": 41, "reasons": {"too_long": 41}},
        "license": "CC-BY-4.0",
    }
    return receipt("manifest", results, outputs={"train.jsonl": sha256(data / "train.jsonl")})


def training(run: Path, data: Path) -> dict[str, Any]:
    rows = metrics(200)
    valid_rows = [row for row in rows if row["kind"] == "valid"]
    trains = [row["loss"] for row in rows if row["kind"] == "train"]
    numbered = sorted(run.glob("0*_adapters.safetensors"))
    results = {
        "base_model": {
            "name": "mlx-community/Qwen3-VL-30B-A3B-Instruct-4bit",
            "hash": "b" * 64,
            "parameters": 31_070_754_032,
        },
        "dataset": {"path": str(data), "hash": "d" * 64},
        "template_hash": "e" * 64,
        "system_prompt": "你是一名医生助手。",
        "lora": {
            "rank": 128,
            "alpha": 256,
            "scale": 2.0,
            "num_layers": 16,
            "keys": ["self_attn.q_proj", "self_attn.v_proj"],
            "trainable_parameters": 35_651_584,
            "census": {"attention": 35_651_584, "router": 0},
            "adapter_bytes": 5000,
        },
        "steps": 200,
        "epochs": 2.56,
        "stopped": "finished",
        "train_loss": {"first": trains[0], "last": trains[-1]},
        "val_loss": {
            "first": valid_rows[0]["loss"],
            "best": valid_rows[-1]["loss"],
            "best_step": 200,
            "last": valid_rows[-1]["loss"],
        },
        "val_loss_by_dim": {"first": valid_rows[0]["loss_by_dim"], "best": valid_rows[-1]["loss_by_dim"]},
        "share": {
            "nominal": {"accuracy": 0.50, "warmth": 0.35, "vision": 0.15},
            "effective": {"accuracy": 0.694, "warmth": 0.243, "vision": 0.063},
            "measured": {"accuracy": 0.671, "warmth": 0.262, "vision": 0.067},
        },
        "reward_margin": 0.412,
        "gradient_share": {"accuracy": 0.61, "warmth": 0.28, "vision": 0.11},
        "tokens": 504_000,
        "supervised_tokens": 251_000,
        "tokens_per_sec": 240.0,
        "it_per_sec": 0.95,
        "peak_memory_gb": 19.1,
        "train_seconds": 2105.0,
        "trunk_seconds": 96.0,
        "trunk": {"used": True, "bytes": 812_000_000, "layers": 32},
        "checkpoints": [{"step": int(p.name[:7]), "file": p.name, "bytes": 5000, "val_loss": 0.4} for p in numbered],
        "selected": {"step": 200, "by": "val_loss", "val_loss": valid_rows[-1]["loss"]},
    }
    config = {
        "seed": 0,
        "iters": 200,
        "batch_size": 2,
        "grad_accumulation_steps": 1,
        "optimizer": {"name": "adamw", "learning_rate": 5e-6, "weight_decay": 0.01, "grad_clip": 1.0},
        "lr_schedule": {"name": "cosine", "warmup": 50, "final": 0.0},
        "objective": {"priorities": PRIORITIES, "share": "examples"},
    }
    outputs = {"adapters.safetensors": sha256(run / "adapters.safetensors")}
    inputs = {"train.jsonl": sha256(data / "train.jsonl")}
    return receipt("training", results, config=config, outputs=outputs, inputs=inputs, overrides=["iters=200"])


def evaluation(run: Path, data: Path) -> dict[str, Any]:
    Image.new("RGB", (64, 48), "white").save(data / "sheet.png")
    rows = [
        {
            "id": f"{dim}-{i}",
            "model": model,
            "split": "test",
            "dim": dim,
            "prompt": [
                {"role": "system", "content": "你是一名医生助手。"},
                {"role": "user", "content": f"{dim} 问题 {i}"},
            ],
            "images": [str(data / "sheet.png")] if dim == "vision" else [],
            "reference": f"{dim} 参考 {i}",
            "answer": f"{dim} {model} 回答 {i}",
            "finish": "length" if i < 3 else "stop",
        }
        for dim, count in SEEN.items()
        for i in range(count)
        for model in ("baseline", "tuned")
    ]
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = {"accuracy": (0.55, 0.81, 0.07), "warmth": (0.62, 0.74, 0.08), "vision": (0.50, 0.56, 0.11)}
    dims = {
        dim: {
            "n": SEEN[dim],
            "baseline": a,
            "tuned": b,
            "delta": b - a,
            "ci_low": b - a - h,
            "ci_high": b - a + h,
            "detectable": 2.8 * h / 1.96,
            "p": 0.29 if dim == "vision" else 0.0004,
        }
        for dim, (a, b, h) in figures.items()
    }
    whole = {
        "n": 164,
        "baseline": 0.567,
        "tuned": 0.748,
        "delta": 0.181,
        "ci_low": 0.13,
        "ci_high": 0.23,
        "p": 0.0001,
        "detectable": 0.07,
    }
    answer = "140/90属于**1级**高血压|请复测。\n如果头痛<b>立即</b>就医。"
    results = {
        "base_model": "mlx-community/Qwen3-VL-30B-A3B-Instruct-4bit",
        "adapters": {"path": str(run), "hash": sha256(run / "adapters.safetensors")},
        "baseline": {"kind": "base", "path": ""},
        "items": 164,
        "max_tokens": 300,
        "dtype": "float32",
        "dimensions": dims,
        "overall": whole,
        "checks": {
            "grading": {"n": 80, "baseline": 0.41, "tuned": 0.88},
            "referral": {"n": 120, "baseline": 0.70, "tuned": 0.83},
            "fields": {"n": 24, "baseline": 0.33, "tuned": 0.52},
        },
        "migration": {"fixed": 38, "regressed": 6, "kept": 90, "still_wrong": 30},
        "recommended": [
            {
                "id": "bp",
                "question": QUESTION,
                "image": None,
                "expect": "分级 + 建议",
                "baseline": "不用担心。",
                "tuned": answer,
                "checks": {"grading": {"baseline": 0.0, "tuned": 1.0}, "referral": {"baseline": 0.0, "tuned": 0.5}},
            },
            {
                "id": "sheet",
                "question": "请解读这张化验单",
                "image": str(data / "sheet.png"),
                "expect": "",
                "baseline": "一切正常。",
                "tuned": "白细胞 12.3，偏高 ↑。",
                "checks": {},
            },
        ],
        "gate": {
            "passed": False,
            "failures": [{"kind": "dimension", "dim": "vision", "low": -0.05, "wanted": 0.08}],
            "unmeasured": ["emergency"],
        },
        "tokens_per_sec": 61.0,
        "truncated": {"baseline": 9, "tuned": 9},
    }
    config = {"bench": str(data), "max_tokens": 300, "gate": {"accuracy": 0.0, "warmth": 0.0, "vision": 0.08}}
    outputs = {"predictions.jsonl": sha256(run / "predictions.jsonl")}
    return receipt("evaluation", results, config=config, outputs=outputs)


def deployment(run: Path, data: Path) -> dict[str, Any]:
    folder = run / "lmstudio" / "medtune" / "Qwen3-VL-30B-Medical-V2"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"fused" * 2000)
    weights = {"adapted": 64, "untouched": 1037, "least_share": 0.99912, "least_cosine": 0.99871}
    off = [{"fault": "server_off", "lms": "lms"}]
    levels = [
        {"level": "L0", "name": "weights", "verdict": "passed", "figures": weights, "faults": []},
        {"level": "L1", "name": "answers", "verdict": "passed", "figures": {"prompts": 4}, "faults": []},
        {"level": "L3", "name": "LM Studio itself", "verdict": "skipped", "figures": {}, "faults": off},
    ]
    results = {
        "folder": str(folder),
        "publisher": "medtune",
        "name": "Qwen3-VL-30B-Medical-V2",
        "staged": True,
        "bytes": 10_000,
        "files": [{"name": "model.safetensors", "bytes": 10_000, "sha256": sha256(folder / "model.safetensors")}],
        "precision": "bf16",
        "layers": [
            {
                "name": f"language_model.model.layers.{layer}.self_attn.{part}_proj",
                "precision": "bf16",
                "share": 0.999,
                "cosine": 0.998,
                "relative": 0.01 + layer / 1000,
                "noise": 0.0016,
            }
            for layer in range(32, 48)
            for part in "qkvo"
        ],
        "untouched": 1037,
        "proofs": levels,
    }
    inputs = {"adapters.safetensors": sha256(run / "adapters.safetensors")}
    return receipt("deployment", results, inputs=inputs)
