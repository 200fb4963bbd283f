"""Small data sets, settings and models that tests share."""

from __future__ import annotations

import importlib
import json
import random
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from medtune import files
from medtune.model import families
from medtune.records import Message, Record, Span
from tools import prepare_data

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

DATA_SETTINGS: dict[str, Any] = {  # but for the tokenizer and the sources
    "system_prompt": "",
    "max_seq_length": 512,
    "max_image_edge": 256,
    "valid_fraction": 0.2,
    "test_fraction": 0.2,
    "seed": 0,
    "privacy": "off",
    "dedup": "off",
}


def settings_file(path: Path, base_model: Path, **changes: Any) -> Path:
    """A train.yaml for ``base_model``."""
    path.write_text(yaml.safe_dump({"base_model": str(base_model), **SETTINGS, **changes}), encoding="utf-8")
    return path


def question(index: int, rng: random.Random, folder: Path, with_images: bool = True) -> Record:
    """A record of any kind: text or one or two images, one or two turns, right, wrong or marked wrong."""
    kind = ("accuracy", "accuracy", "accuracy", "warmth", "warmth", "vision", "vision")[index % 7]
    text = f"血压{rng.randint(100, 190)}/{rng.randint(60, 110)}要紧吗" + "，请说说" * rng.randint(0, 6)
    images = []
    if kind == "vision" and with_images:
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


def write_dataset(folder: Path, model: Path, count: int = 42, images: bool = True) -> Path:
    """A data set of ``count`` records, prepared by the tool."""
    raw = folder / "raw"
    (raw / "images").mkdir(parents=True)
    rng = random.Random(0)
    files.write_jsonl(raw / "records.jsonl", (question(index, rng, raw, images).to_json() for index in range(count)))
    return prepared(raw, model, folder / "dataset")


def prepared(raw: Path, model: Path, out: Path) -> Path:
    """The data set ``out`` that the tool makes of the folder ``raw``."""
    settings = DATA_SETTINGS | {"tokenizer": str(model), "sources": []}
    (raw / "data.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    arguments = [str(raw / "records.jsonl"), "--config", str(raw / "data.yaml"), "--out", str(out)]
    with redirect_stdout(StringIO()):
        prepare_data.main(arguments)
    return out


def instance(config: dict[str, Any]) -> Any:
    """The libraries' own model of this config.json, its arrays not yet made: 30 billion parameters take no memory."""
    family, copy = families.of(config), json.loads(json.dumps(config))
    module = importlib.import_module(family.classes)
    if family.vision is None:
        return module.Model(module.ModelArgs.from_dict(copy))
    from mlx_vlm.utils import update_module_configs

    settings = module.ModelConfig.from_dict(copy)
    return module.Model(update_module_configs(settings, module, copy, ["text", "vision"]))


def sizes(model: Any) -> dict[str, int]:
    """Parameters of a loaded model by module."""
    from mlx.utils import tree_flatten

    counts: dict[str, int] = {}
    for name, value in tree_flatten(model.parameters()):
        module = name.rsplit(".", 1)[0]
        counts[module] = counts.get(module, 0) + value.size
    return counts
