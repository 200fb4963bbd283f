"""A deployable model folder: which files it holds and where each comes from.

Tokenizer and processor files are the base's own, byte for byte: a file saved again by a newer library is what breaks
models in LM Studio. Weights, index and, where they must differ, config and template are ours.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import tensors
from medtune.model.base import Base

REQUIRED = ("config.json", "tokenizer_config.json", "preprocessor_config.json")
VERBATIM = (
    "added_tokens.json",
    "generation_config.json",
    "LICENSE",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "video_preprocessor_config.json",
    "vocab.json",
)
TEMPLATE = "chat_template.jinja"
TEMPLATE_COPIES = ("tokenizer_config.json", "chat_template.json")  # JSON files whose `chat_template` must agree
CARD = "README.md"


def check(base: Base) -> None:
    """Raise a UserError for a base from which no folder can be made that LM Studio loads with its vision."""
    missing = [name for name in REQUIRED if not (base.path / name).exists()]
    if missing:
        raise UserError(
            tr("{folder}: {names} missing; download the base model again", folder=base.path, names=", ".join(missing))
        )
    if "vision_config" not in base.config:
        raise UserError(
            tr("{folder}: no vision_config, a text-only conversion; use the Qwen3-VL model", folder=base.path)
        )
    names = tensors.Weights.open(base.path).tensors
    if not any(name.startswith(f"{base.family.decoder}.") for name in names):
        raise UserError(
            tr("{folder}: weights not in MLX's layout; convert them with `python -m mlx_vlm.convert`", folder=base.path)
        )


def write(base: Base, folder: Path, *, template: str, quantization: dict[str, Any] | None, card: str) -> None:
    """Write everything but the weights into ``folder``, which exists and already has its shards."""
    for name in VERBATIM:
        if (base.path / name).exists():
            shutil.copyfile(base.path / name, folder / name)
    _write_json(base.path, folder, "config.json", _config(base.config, quantization))
    _write_template(base.path, folder, template)
    shards = [tensors.Shard.open(path) for path in sorted(folder.glob("model*.safetensors"))]
    files.write_json(folder / tensors.INDEX, tensors.index_of(shards))
    files.write_text(folder / CARD, card)


def _config(config: dict[str, Any], quantization: dict[str, Any] | None) -> dict[str, Any]:
    """The base's config with the quantisation of the changed matrices."""
    keys = ("quantization", "quantization_config")
    rest = {key: value for key, value in config.items() if key not in keys}
    return rest if quantization is None else rest | dict.fromkeys(keys, quantization)


def _write_template(base: Path, folder: Path, template: str) -> None:
    """The same template wherever a program may look for it: apps and libraries differ in the order they look."""
    (folder / TEMPLATE).write_text(template, encoding="utf-8")
    for name in TEMPLATE_COPIES:
        if (base / name).exists():
            _write_json(base, folder, name, files.read_json(base / name) | {"chat_template": template})


def _write_json(base: Path, folder: Path, name: str, wanted: dict[str, Any]) -> None:
    """Copy the base's file when it already says ``wanted``, so that equal content is equal bytes."""
    if files.read_json(base / name) == wanted:
        shutil.copyfile(base / name, folder / name)
    else:
        text = json.dumps(wanted, ensure_ascii=False, indent=2, allow_nan=False)  # LM Studio's parser knows no NaN
        (folder / name).write_text(text + "\n", encoding="utf-8")


def template_of(folder: Path) -> dict[str, str]:
    """The chat templates of a folder by the file they stand in."""
    found = {}
    if (folder / TEMPLATE).exists():
        found[TEMPLATE] = files.read_text(folder / TEMPLATE)
    for name in TEMPLATE_COPIES:
        if (folder / name).exists():
            template = files.read_object(folder / name).get("chat_template")
            if isinstance(template, str):
                found[name] = template
    return found


def listing(folder: Path) -> list[dict[str, Any]]:
    """Name, size and sha256 of every file, sorted by name."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        {"name": str(path.relative_to(folder)), "bytes": path.stat().st_size, "sha256": files.sha256(path)}
        for path in found
    ]
