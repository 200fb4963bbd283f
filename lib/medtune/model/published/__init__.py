"""config.json of the Qwen3-VL models, built in: a plan needs no weights. Sources: README.md beside this file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medtune import files

FOLDER = Path(__file__).parent
CONVERTED = re.compile(r"(?P<model>.+?)(-MLX)?-(?P<bits>[48])bit")


def names() -> list[str]:
    """The models, without owner and precision."""
    return sorted(path.stem for path in FOLDER.glob("[!.]*.json"))


def config(name: str) -> dict[str, Any] | None:
    """config.json of a Hub id or LM Studio key such as ``mlx-community/Qwen3-VL-8B-Instruct-4bit``, if it is known."""
    model = name.rsplit("/", 1)[-1]
    converted = CONVERTED.fullmatch(model)
    path = FOLDER / f"{converted['model'] if converted else model}.json"
    if not path.exists():
        return None
    found = files.read_json(path)
    if converted:
        found["quantization"] = {"group_size": 64, "bits": int(converted["bits"]), "mode": "affine"}
    return found
