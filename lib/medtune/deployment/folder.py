"""A deployable model folder: which files it holds and where each comes from.

Tokenizer and processor files are the base's own, byte for byte: a file saved again by a newer library is what breaks
models in LM Studio. Weights, index and, where they must differ, config and template are ours, and of a base saved by
transformers 5, which has one file for all processors, the two that older engines look for. A text-only base has none.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import tensors
from medtune.model.base import IMAGES, PARTS, PROCESSORS, Base
from medtune.model.families import Family

REQUIRED = ("config.json", "tokenizer_config.json")
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
TEMPLATE_PLACES = (*TEMPLATE_COPIES, PROCESSORS)  # the last has one only where the base's has
CARD = "README.md"


def check(base: Base) -> None:
    """Raise a UserError for a base from which no folder can be made that LM Studio loads, with its vision if any.

    Asked when data are prepared and before a training, not only hours later; who prepares data may have no weights.
    """
    missing = [name for name in REQUIRED if not (base.path / name).exists()]
    if base.sees:
        missing += [] if base.processor_part(IMAGES) else [IMAGES]
    if missing:
        raise UserError(
            tr("{folder}: {names} missing; download the base model again", folder=base.path, names=", ".join(missing))
        )
    if base.family.vision and not base.sees:
        raise UserError(
            tr("{folder}: no vision_config, a text-only conversion; use the Qwen3-VL model", folder=base.path)
        )
    if any(base.path.glob("[!.]*.safetensors")) and not _in_mlx_layout(base):
        library = base.family.library.package.partition(".")[0]
        raise UserError(
            tr(
                "{folder}: weights not in MLX's layout; convert them with `{python} -m {library}.convert --hf-path "
                "{folder} --mlx-path {folder}-mlx` and name that folder",
                folder=base.path,
                python=sys.executable,
                library=library,
            )
        )


def _in_mlx_layout(base: Base) -> bool:
    """Whether the tensors have the names MLX's classes give them; Hugging Face keeps each expert by itself."""
    names = tensors.Weights.open(base.path).tensors
    ours = any(name.startswith(f"{base.family.decoder}.") for name in names)
    return ours and not any(".mlp.experts." in name for name in names)


def write(base: Base, folder: Path, *, template: str, quantization: dict[str, Any] | None, card: str) -> None:
    """Write everything but the weights into ``folder``, which exists and already has its shards."""
    for name in VERBATIM:
        if (base.path / name).exists():
            shutil.copyfile(base.path / name, folder / name)
    if base.sees:
        _write_processors(base, folder)
    _write_json(base.path, folder, "config.json", _config(base.config, quantization))
    _write_template(base.path, folder, template)
    shards = [tensors.Shard.open(path) for path in sorted(folder.glob("model*.safetensors"))]
    files.write_json(folder / tensors.INDEX, tensors.index_of(shards))
    files.write_text(folder / CARD, card)


def _write_processors(base: Base, folder: Path) -> None:
    """The files that older engines look for, where the base has them in one, and as the engine would leave them."""
    for name in PARTS:
        if found := base.processor_part(name):
            _write_json(base.path, folder, name, served(found, base.family) if name == IMAGES else found)


def served(settings: dict[str, Any], family: Family) -> dict[str, Any]:
    """preprocessor_config.json as LM Studio's engine leaves it once it has loaded the folder, with the same meaning."""
    found, vision = dict(settings), family.vision
    if vision and found.get("image_processor_type") == vision.app_processor[0]:
        found["image_processor_type"] = vision.app_processor[1]
    if vision and vision.app_drops_size:
        size = found.pop("size", None) or {}
        edges = {"min_pixels": size.get("shortest_edge"), "max_pixels": size.get("longest_edge")}
        found |= {key: edge for key, edge in edges.items() if edge is not None and found.get(key) is None}
    return found


def is_the_bases(base: Base, folder: Path, name: str) -> bool:
    """Whether the file ``name`` is the base's: byte for byte, or as we or LM Studio's engine write it."""
    own, made = base.path / name, folder / name
    if not made.exists():
        return not own.exists() and (name not in PARTS or not base.processor_part(name))
    if own.exists() and files.sha256(own) == files.sha256(made):
        return True
    wanted = base.processor_part(name) if base.sees and name in (*PARTS, PROCESSORS) else None
    try:
        found = json.loads(made.read_bytes())
    except ValueError:
        found = None
    if not wanted or not isinstance(found, dict):
        return False
    if name == IMAGES:  # the engine drops sizes even where nothing else states them; what that does, L1 measures
        drops = bool(base.family.vision and base.family.vision.app_drops_size)
        without = {key: value for key, value in wanted.items() if key != "size" or not drops}
        return served(found, base.family) in (served(wanted, base.family), served(without, base.family))
    return _but_template(found) == _but_template(wanted)


def _but_template(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "chat_template"}


def _config(config: dict[str, Any], quantization: dict[str, Any] | None) -> dict[str, Any]:
    """The base's config with the quantisation of the changed matrices."""
    keys = ("quantization", "quantization_config")
    rest = {key: value for key, value in config.items() if key not in keys}
    return rest if quantization is None else rest | dict.fromkeys(keys, quantization)


def _write_template(base: Path, folder: Path, template: str) -> None:
    """The same template wherever a program may look for it: apps and libraries differ in the order they look."""
    (folder / TEMPLATE).write_text(template, encoding="utf-8")
    for name in TEMPLATE_PLACES:
        found = files.read_json(base / name) if (base / name).exists() else {}
        if found and (name != PROCESSORS or "chat_template" in found):
            _write_json(base, folder, name, found | {"chat_template": template})


def _write_json(base: Path, folder: Path, name: str, wanted: dict[str, Any]) -> None:
    """Copy the base's file when it already says ``wanted``, so that equal content is equal bytes."""
    if (base / name).exists() and files.read_json(base / name) == wanted:
        shutil.copyfile(base / name, folder / name)
    else:
        text = json.dumps(wanted, ensure_ascii=False, indent=2, allow_nan=False)  # LM Studio's parser knows no NaN
        (folder / name).write_text(text + "\n", encoding="utf-8")


def template_of(folder: Path) -> dict[str, str]:
    """The chat templates of a folder by the file they stand in."""
    found = {}
    if (folder / TEMPLATE).exists():
        found[TEMPLATE] = files.read_text(folder / TEMPLATE)
    for name in TEMPLATE_PLACES:
        if (folder / name).exists():
            template = files.read_object(folder / name).get("chat_template")
            if isinstance(template, str):
                found[name] = template
    return found


def listing(folder: Path) -> list[dict[str, Any]]:
    """Name, size and sha256 of every file, sorted by name; what a Mac adds on a foreign disk (`._*`) is none."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("._"))
    return [
        {"name": str(path.relative_to(folder)), "bytes": path.stat().st_size, "sha256": files.sha256(path)}
        for path in found
    ]
