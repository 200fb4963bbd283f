"""Stand-ins: a finished run, adapters with random numbers on a small base and their receipt, and an LM Studio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from medtune import files
from medtune.model import adapters
from medtune.model.base import Base
from medtune.receipt import Receipt
from medtune.run import CONFIG as ADAPTER_CONFIG
from medtune.run import WEIGHTS
from medtune.schemas import Lora

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
CONFIG = """publisher: medtune
name: small-medical-v2
precision: auto
system_prompt: training
home: ""
"""


def write_run(
    run: Path,
    base: Path,
    *,
    size: float = 0.02,
    keys: tuple[str, ...] = ATTENTION,
    system_prompt: str = "",
    **lora: Any,
) -> Path:
    """A run folder with adapters whose factors are normal with deviation ``size``; also writes deploy.yaml beside."""
    found = Base.find(str(base))
    model = found.load()
    settings = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "num_layers": 2, "keys": list(keys)} | lora
    config = adapters.attach(model, Lora.model_validate(settings))
    mx.random.seed(7)
    drawn = [
        (name, value if name.endswith(".m") else mx.random.normal(value.shape) * size)
        for name, value in adapters.tensors(model).items()
    ]
    model.update(tree_unflatten(drawn))
    run.mkdir(parents=True, exist_ok=True)
    adapters.save_tensors(run / WEIGHTS, adapters.tensors(model))
    files.write_json(run / ADAPTER_CONFIG, config.to_json())
    results = {
        "base_model": {"name": str(base), "hash": found.weights_hash},
        "dataset": {"path": str(run / "no-data"), "hash": ""},
        "template_hash": found.template_hash,
        "system_prompt": system_prompt,
        "lora": {"rank": config.rank, "scale": config.scale, "keys": list(config.keys)},
    }
    receipt = Receipt("training", {}, [], {}, results=results, finished="2026-01-01", commit="0" * 40)
    files.write_json(run / "training.json", vars(receipt))
    (run / "deploy.yaml").write_text(CONFIG, encoding="utf-8")
    return run


class App:
    """LM Studio as far as the proof sees it: its `lms` is a script, its server is for the test to play."""

    def __init__(self, home: Path, port: int, key: str = "medtune/small-v2") -> None:
        self.home, self.log = home, home / "lms.log"
        self.listed: list[dict[str, Any]] = [
            {"type": "llm", "modelKey": key.lower().partition("/")[2], "format": "safetensors", "vision": True,
             "sizeBytes": 1, "path": key, "architecture": "qwen3_vl", "maxContextLength": 4096}
        ]  # fmt: skip
        self.running, self.port = True, port

    def install(self) -> None:
        program = self.home / "bin" / "lms"
        program.parent.mkdir(parents=True, exist_ok=True)
        status = json.dumps({"running": self.running, "port": self.port})
        program.write_text(
            f'#!/bin/sh\necho "$@" >> \'{self.log}\'\ncase "$1" in\n'
            f"ls) echo '{json.dumps(self.listed)}';;\nserver) echo '{status}';;\nesac\n"
        )
        program.chmod(0o755)
