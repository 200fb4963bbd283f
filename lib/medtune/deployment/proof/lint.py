"""What is wrong with a model folder as LM Studio sees it, read from its files alone.

Each rule comes from a failure seen in LM Studio or in its open engine; what the program does about it stands in the
problem's `effect`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune import files
from medtune.deployment import folder
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import families
from medtune.model.tensors import INDEX, Shard

TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))


@dataclass(frozen=True)
class Problem:
    """One fault: what was found and what the app makes of it."""

    found: str
    effect: str

    def __str__(self) -> str:
        return f"{self.found}: {self.effect}"


def problems(path: Path) -> list[Problem]:
    """Every fault of the folder ``path``, the gravest first."""
    if not (path / "config.json").exists():
        return [Problem("config.json", tr("missing; LM Studio does not see a model here"))]
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"), parse_constant=_not_json)
        shards, broken = _shards(path)
    except (ValueError, UserError) as error:
        return [Problem("config.json", tr("not standard JSON ({error}); the indexer fails", error=error))]
    found = [*_adapters(path), *broken, *_index(path), *_headers(shards), *_vision(path, config, shards)]
    return [*found, *_links(path), *_texts(path), *_strays(path)]


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _shards(path: Path) -> tuple[list[Shard], list[Problem]]:
    shards, broken = [], []
    for file in sorted(path.glob("model*.safetensors")):
        try:
            shards.append(Shard.open(file))
        except (UserError, OSError) as error:
            broken.append(Problem(str(error), tr("the model cannot be loaded")))
    if not shards and not broken:
        broken.append(Problem("model*.safetensors", tr("missing; there is nothing to load")))
    return shards, broken


def _adapters(path: Path) -> Iterator[Problem]:
    """Adapters beside a base: the engine has no code for them."""
    beside = [file.name for file in sorted(path.glob("*.safetensors")) if not file.name.startswith("model")]
    beside += [name for name in ("adapter_config.json",) if (path / name).exists()]
    if not beside:
        return
    effect = (
        tr("LM Studio ignores adapters and serves the base model, because it loads only the files its index names")
        if _index_is_right(path)
        else tr(
            "LM Studio refuses the folder: it takes every *.safetensors for the model, and adapters are not part of it"
        )
    )
    yield Problem(", ".join(beside), effect)


def _index_is_right(path: Path) -> bool:
    index = path / INDEX
    named = set(files.read_json(index).get("weight_map", {}).values()) if index.exists() else set()
    return bool(named) and all((path / name).exists() for name in named)


def _index(path: Path) -> Iterator[Problem]:
    if not (path / INDEX).exists():
        return
    named = set(files.read_json(path / INDEX).get("weight_map", {}).values())
    present = {file.name for file in path.glob("model*.safetensors")}
    for name in sorted(named - present):
        yield Problem(f"{INDEX} → {name}", tr("named but not there; the model is refused or loads incompletely"))
    for name in sorted(present - named):
        yield Problem(name, tr("not named by the index; its tensors are not loaded"))


def _headers(shards: list[Shard]) -> Iterator[Problem]:
    for shard in shards:
        if not shard.is_mlx:
            yield Problem(
                shard.path.name,
                tr("its header does not say format: mlx; LM Studio takes it for PyTorch or cannot index it"),
            )


def _vision(path: Path, config: dict[str, Any], shards: list[Shard]) -> Iterator[Problem]:
    names = [tensor.name for shard in shards for tensor in shard.tensors]
    if any(".lora_a" in name or ".lora_b" in name for name in names):
        yield Problem("lora_a, lora_b", tr("adapter tensors among the weights; the model is refused"))
    if "vision_config" not in config:
        yield Problem("config.json", tr("no vision_config; LM Studio loads it as a text-only model"))
        return
    if names and not any(families.is_vision(name) for name in names):
        yield Problem(f"{families.MLX_VLM.tower}.*", tr("no vision weights; the model is refused or blind"))
    if not (path / "preprocessor_config.json").exists():
        yield Problem(
            "preprocessor_config.json", tr("missing; older engines refuse images, newer ones guess their size")
        )


def _links(path: Path) -> Iterator[Problem]:
    if path.is_symlink():
        yield Problem(path.name, tr("the folder is a symbolic link; LM Studio does not follow it reliably"))
    for file in sorted(path.iterdir()):
        if file.is_symlink():
            state = tr("a symbolic link") if file.exists() else tr("a symbolic link to nothing")
            yield Problem(file.name, tr("{state}; LM Studio does not follow it reliably", state=state))


def _texts(path: Path) -> Iterator[Problem]:
    if not any(all((path / name).exists() for name in names) for names in TOKENIZERS):
        yield Problem("tokenizer.json", tr("no tokenizer; the model cannot be loaded"))
    templates = folder.template_of(path)
    if not templates:
        yield Problem(folder.TEMPLATE, tr("no chat template; it loads but cannot chat"))
    if len(set(templates.values())) > 1:
        yield Problem(", ".join(templates), tr("different chat templates; which one counts depends on the program"))


def _strays(path: Path) -> Iterator[Problem]:
    for file in sorted(path.glob("._*")):
        yield Problem(file.name, tr("an AppleDouble file; LM Studio's indexer can trip over it; delete it"))
