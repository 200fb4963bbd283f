"""Small data sets and settings the training tests share."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from medtune import files
from medtune.basemodel import find
from medtune.receipt import Receipt
from medtune.records import Message, Record, Span

SETTINGS: dict[str, Any] = {
    "seed": 0,
    "iters": 6,
    "batch_size": 4,
    "grad_accumulation_steps": 1,
    "optimizer": {"name": "adamw", "learning_rate": 1.0e-2, "weight_decay": 0.01, "grad_clip": 1.0},
    "lr_schedule": {"name": "cosine", "warmup": 2, "final": 0.0},
    "lora": {
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.0,
        "num_layers": 2,
        "keys": ["q_proj", "k_proj", "v_proj", "o_proj"],
    },
    "objective": {
        "priorities": {
            "accuracy": {"weight": 0.50, "reward": 2.0, "penalty": 3.0},
            "warmth": {"weight": 0.35, "reward": 1.0, "penalty": 1.5},
            "vision": {"weight": 0.15, "reward": 0.6, "penalty": 1.0},
        },
        "share": "examples",
        "negatives": "auto",
    },
    "steps_per_report": 2,
    "steps_per_eval": 3,
    "save_every": 3,
    "select": {"by": "val_loss", "patience": None},
    "trunk_cache": "auto",
    "grad_checkpoint": "auto",
}


def settings_file(path: Path, base_model: Path, **changes: Any) -> Path:
    """A train.yaml for ``base_model``."""
    path.write_text(yaml.safe_dump({"base_model": str(base_model), **SETTINGS, **changes}), encoding="utf-8")
    return path


def question(index: int, rng: random.Random, folder: Path) -> Record:
    """A record of any kind: text or one or two images, one or two turns, right, wrong or marked wrong."""
    kind = ("accuracy", "accuracy", "accuracy", "warmth", "warmth", "vision", "vision")[index % 7]
    text = f"血压{rng.randint(100, 190)}/{rng.randint(60, 110)}要紧吗" + "，请说说" * rng.randint(0, 6)
    images = []
    if kind == "vision":
        for number in range(1 + index % 2):
            name = f"images/{index}-{number}.png"
            color = tuple(rng.randint(0, 255) for _ in range(3))
            Image.new("RGB", (rng.choice([64, 96, 128]), rng.choice([64, 96])), color).save(folder / name)  # type: ignore[arg-type]
            images.append(name)
        text = "<image>" * len(images) + text
    messages = [Message(role="user", content=text)]
    if index % 5 == 0:
        messages += [Message(role="assistant", content="量过几次？"), Message(role="user", content="三次")]
    messages.append(Message(role="assistant", content="属于1级高血压" + "，请复查" * rng.randint(1, 5) + "。"))
    wrong = index % 8 == 7
    spans = (Span(start=2, end=7, weight=-1.0),) if index % 16 == 7 else ()
    return Record(
        id=f"r{index}",
        source="test",
        dim=kind,  # type: ignore[arg-type]
        label=0 if wrong else 1,
        pair=f"p{index // 8}" if index % 8 >= 6 else None,
        spans=spans,
        images=tuple(images),
        messages=tuple(messages),
    )


def write_dataset(folder: Path, model: Path, count: int = 42) -> Path:
    """A prepared data set of ``count`` records as prepare_data would leave it."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng, base = random.Random(0), find(str(model))
    records = [question(index, rng, folder) for index in range(count)]
    right = [record for record in records if record.label == 1]
    splits = {"valid": right[::5], "test": right[1::5]}
    held_out = {record.id for part in splits.values() for record in part}
    splits["train"] = [record for record in records if record.id not in held_out]
    for name, part in splits.items():
        files.write_jsonl(folder / f"{name}.jsonl", (record.to_json() for record in part))
    manifest = Receipt(
        stage="manifest",
        config={"system_prompt": ""},
        overrides=[],
        inputs={},
        outputs={f"{name}.jsonl": files.sha256(folder / f"{name}.jsonl") for name in splits},
        results={"tokenizer": {"hash": base.tokenizer_hash}, "processor": {"hash": base.processor_hash}},
    )
    files.write_json(folder / "manifest.json", vars(manifest))
    return folder
