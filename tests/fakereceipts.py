"""Test data: the receipts of a made-up run. ``fakerun`` writes them where the stages leave them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image

from medtune.records import DIMENSIONS

Rows = list[dict[str, Any]]

BASE = "mlx-community/Qwen3-VL-30B-A3B-Instruct-4bit"
PROMPT = "你是一名医生助手。"
SEEN = {"accuracy": 80, "warmth": 60, "vision": 24}
QUESTION = "我的血压140/90，需要担心吗？"
TRAIN_CONFIG: dict[str, Any] = {
    "seed": 0,
    "iters": 200,
    "batch_size": 2,
    "grad_accumulation_steps": 1,
    "optimizer": {"name": "adamw", "learning_rate": 5e-6, "weight_decay": 0.01, "grad_clip": 1.0},
    "lr_schedule": {"name": "cosine", "warmup": 50, "final": 0.0},
    "objective": {
        "priorities": {
            "accuracy": {"weight": 0.50, "reward": 2.0, "penalty": 3.0},
            "warmth": {"weight": 0.35, "reward": 1.0, "penalty": 1.5},
            "vision": {"weight": 0.15, "reward": 0.6, "penalty": 1.0},
        },
        "share": "examples",
    },
}
LORA: dict[str, Any] = {
    "rank": 128,
    "alpha": 256,
    "scale": 2.0,
    "num_layers": 16,
    "keys": ["self_attn.q_proj", "self_attn.v_proj"],
    "trainable_parameters": 35_651_584,
    "census": {"attention": 35_651_584, "router": 0},
    "adapter_bytes": 5000,
}
TRAINED: dict[str, Any] = {  # what does not follow from the metrics
    "template_hash": "e" * 64,
    "system_prompt": PROMPT,
    "lora": LORA,
    "steps": 200,
    "epochs": 2.56,
    "stopped": "finished",
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
}
CHECKS = {
    "grading": {"n": 80, "baseline": 0.41, "tuned": 0.88},
    "referral": {"n": 120, "baseline": 0.70, "tuned": 0.83},
    "fields": {"n": 24, "baseline": 0.33, "tuned": 0.52},
}
GATE = {
    "passed": False,
    "failures": [{"kind": "dimension", "dim": "vision", "low": -0.05, "wanted": 0.08}],
    "unmeasured": ["emergency"],
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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


def manifest(data: Path) -> dict[str, Any]:
    dims = {dim: {"desirable": 40, "undesirable": 12, "marked": 9} for dim in DIMENSIONS}
    split = {"records": 156, "tokens": 31200, "image_tokens": 4096, "supervised_tokens": 15600, "dimensions": dims}
    results = {
        "splits": {"train": split, "valid": split, "test": split},
        "rejected": {"total": 41, "reasons": {"too_long": 41}},
        "license": "CC-BY-4.0",
    }
    return receipt("manifest", results, outputs={"train.jsonl": sha256(data / "train.jsonl")})


def training(run: Path, data: Path, metrics: Rows) -> dict[str, Any]:
    valid = [row for row in metrics if row["kind"] == "valid"]
    losses = [row["loss"] for row in metrics if row["kind"] == "train"]
    first, last = valid[0], valid[-1]
    numbered = sorted(run.glob("0*_adapters.safetensors"))
    results = {
        **TRAINED,
        "base_model": {"name": BASE, "hash": "b" * 64, "parameters": 31_070_754_032},
        "dataset": {"path": str(data), "hash": "d" * 64},
        "train_loss": {"first": losses[0], "last": losses[-1]},
        "val_loss": {"first": first["loss"], "best": last["loss"], "best_step": 200, "last": last["loss"]},
        "val_loss_by_dim": {"first": first["loss_by_dim"], "best": last["loss_by_dim"]},
        "checkpoints": [{"step": int(p.name[:7]), "file": p.name, "bytes": 5000, "val_loss": 0.4} for p in numbered],
        "selected": {"step": 200, "by": "val_loss", "val_loss": last["loss"]},
    }
    outputs = {"adapters.safetensors": sha256(run / "adapters.safetensors")}
    inputs = {"train.jsonl": sha256(data / "train.jsonl")}
    return receipt("training", results, config=TRAIN_CONFIG, outputs=outputs, inputs=inputs, overrides=["iters=200"])


def evaluation(run: Path, data: Path) -> dict[str, Any]:
    sheet = data / "sheet.png"
    Image.new("RGB", (64, 48), "white").save(sheet)
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions(sheet)))
    results = {
        "base_model": BASE,
        "adapters": {"path": str(run), "hash": sha256(run / "adapters.safetensors")},
        "baseline": {"kind": "base", "path": ""},
        "items": 164,
        "max_tokens": 300,
        "dtype": "float32",
        "dimensions": dimensions(),
        "overall": {"n": 164, **compared(0.567, 0.748, 0.05, 0.0001)},
        "checks": CHECKS,
        "migration": {"fixed": 38, "regressed": 6, "kept": 90, "still_wrong": 30},
        "recommended": recommended(sheet),
        "gate": GATE,
        "tokens_per_sec": 61.0,
        "truncated": {"baseline": 9, "tuned": 9},
    }
    config = {"bench": str(data), "max_tokens": 300, "gate": {"accuracy": 0.0, "warmth": 0.0, "vision": 0.08}}
    outputs = {"predictions.jsonl": sha256(run / "predictions.jsonl")}
    return receipt("evaluation", results, config=config, outputs=outputs)


def predictions(sheet: Path) -> Rows:
    return [
        {
            "id": f"{dim}-{i}",
            "model": model,
            "split": "test",
            "dim": dim,
            "prompt": [{"role": "system", "content": PROMPT}, {"role": "user", "content": f"{dim} 问题 {i}"}],
            "images": [str(sheet)] if dim == "vision" else [],
            "reference": f"{dim} 参考 {i}",
            "answer": f"{dim} {model} 回答 {i}",
            "finish": "length" if i < 3 else "stop",
        }
        for dim, count in SEEN.items()
        for i in range(count)
        for model in ("baseline", "tuned")
    ]


def dimensions() -> dict[str, Any]:
    figures = {
        "accuracy": compared(0.55, 0.81, 0.07, 0.0004),
        "warmth": compared(0.62, 0.74, 0.08, 0.0004),
        "vision": compared(0.50, 0.56, 0.11, 0.29),
    }
    return {dim: {"n": SEEN[dim], **found} for dim, found in figures.items()}


def compared(baseline: float, tuned: float, half: float, p: float) -> dict[str, float]:
    """Both scores, and their difference with the interval of this half width."""
    delta = tuned - baseline
    return {
        "baseline": baseline,
        "tuned": tuned,
        "delta": delta,
        "ci_low": delta - half,
        "ci_high": delta + half,
        "detectable": 2.8 * half / 1.96,
        "p": p,
    }


def recommended(sheet: Path) -> Rows:
    return [
        {
            "id": "bp",
            "question": QUESTION,
            "image": None,
            "expect": "分级 + 建议",
            "baseline": "不用担心。",
            "tuned": "140/90属于**1级**高血压|请复测。\n如果头痛<b>立即</b>就医。",
            "checks": {"grading": {"baseline": 0.0, "tuned": 1.0}, "referral": {"baseline": 0.0, "tuned": 0.5}},
        },
        {
            "id": "sheet",
            "question": "请解读这张化验单",
            "image": str(sheet),
            "expect": "",
            "baseline": "一切正常。",
            "tuned": "白细胞 12.3，偏高 ↑。",
            "checks": {},
        },
    ]


def deployment(run: Path) -> dict[str, Any]:
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
