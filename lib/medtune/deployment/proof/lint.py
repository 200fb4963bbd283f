"""What is wrong with a model folder as LM Studio sees it, read from its files alone.

Each rule comes from a failure seen in LM Studio or in its open engine; its sentence says what the program does then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medtune import files
from medtune.deployment import folder
from medtune.deployment.proof import Fault
from medtune.errors import UserError
from medtune.i18n import Words
from medtune.model import families, guard
from medtune.model.base import IMAGES
from medtune.model.tensors import INDEX, Shard, named_by
from medtune.run import CONFIG

TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
UNREADABLE = ("damaged", "wrong", "no_file", "large", "many")  # what the guard says of files read here
SENTENCES: dict[str, Words] = {
    **guard.SENTENCES,
    "no_config": {
        "en": "{file}: missing; LM Studio does not see a model here",
        "zh": "{file}：缺失；LM Studio 看不到模型",
    },
    "not_json": {
        "en": "{file}: not standard JSON ({error}); the indexer fails",
        "zh": "{file}：不是标准 JSON（{error}）；索引会失败",
    },
    "unreadable": {"en": "{error}: the model cannot be loaded", "zh": "{error}：模型无法加载"},
    "no_weights": {"en": "{file}: missing; there is nothing to load", "zh": "{file}：缺失；没有可加载的东西"},
    "adapters_ignored": {
        "en": "{file}: LM Studio ignores adapters and serves the base model, because it loads only the files its index "
        "names",
        "zh": "{file}：LM Studio 不理会适配器，提供的是基础模型，因为它只加载索引里列出的文件",
    },
    "adapters_refused": {
        "en": "{file}: LM Studio refuses the folder: it takes every *.safetensors for the model, and adapters are not "
        "part of it",
        "zh": "{file}：LM Studio 会拒绝这个文件夹：它把所有 *.safetensors 都当作模型，而适配器不属于模型",
    },
    "named_not_there": {
        "en": "{index} → {file}: named but not there; the model is refused or loads incompletely",
        "zh": "{index} → {file}：索引里有但文件不在；模型会被拒绝或加载不全",
    },
    "there_not_named": {
        "en": "{file}: not named by the index; its tensors are not loaded",
        "zh": "{file}：不在索引里；其中的张量不会被加载",
    },
    "no_format": {
        "en": "{file}: its header does not say format: mlx; LM Studio takes it for PyTorch or cannot index it",
        "zh": "{file}：文件头没有 format: mlx；LM Studio 会当作 PyTorch，或无法索引",
    },
    "adapter_tensors": {
        "en": "{file}: adapter tensors (lora_a, lora_b) among the weights; the model is refused",
        "zh": "{file}：权重里混有适配器张量（lora_a、lora_b）；模型会被拒绝",
    },
    "text_only": {
        "en": "{file}: no vision_config; LM Studio loads it as a text-only model",
        "zh": "{file}：没有 vision_config；LM Studio 会当作纯文本模型加载",
    },
    "no_vision": {
        "en": "{file}: no vision weights; the model is refused or blind",
        "zh": "{file}：没有视觉权重；模型会被拒绝，或看不见图像",
    },
    "no_preprocessor": {
        "en": "{file}: missing; older engines refuse images, newer ones guess their size",
        "zh": "{file}：缺失；旧引擎会拒绝图像，新引擎只能猜尺寸",
    },
    "linked_folder": {
        "en": "{file}: the folder is a symbolic link; LM Studio does not follow it reliably",
        "zh": "{file}：文件夹是符号链接；LM Studio 不一定能跟随",
    },
    "link": {
        "en": "{file}: a symbolic link; LM Studio does not follow it reliably",
        "zh": "{file}：符号链接；LM Studio 不一定能跟随",
    },
    "link_to_nothing": {
        "en": "{file}: a symbolic link to nothing; LM Studio does not follow it reliably",
        "zh": "{file}：指向不存在文件的符号链接；LM Studio 不一定能跟随",
    },
    "no_tokenizer": {
        "en": "{file}: no tokenizer; the model cannot be loaded",
        "zh": "{file}：没有分词器；模型无法加载",
    },
    "no_template": {
        "en": "{file}: no chat template; it loads but cannot chat",
        "zh": "{file}：没有对话模板；能加载但不能对话",
    },
    "templates_differ": {
        "en": "{file}: different chat templates; which one counts depends on the program",
        "zh": "{file}：对话模板互不相同；以哪一个为准因程序而异",
    },
    "apple_double": {
        "en": "{file}: an AppleDouble file; LM Studio's indexer can trip over it; delete it",
        "zh": "{file}：AppleDouble 文件；LM Studio 的索引可能因它出错；请删除",
    },
}


def problems(path: Path) -> list[Fault]:
    """Every fault of the folder ``path``, {"fault": rule, "file": file or files}, the gravest first."""
    found = [problem for problem in guard.problems(path) if problem["fault"] != "leads_out"]  # a link is one, anyway
    if not (path / "config.json").exists():
        return [*found, {"fault": "no_config", "file": "config.json"}]
    try:
        config = json.loads(files.read_text(path / "config.json"), parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        return [*found, {"fault": "not_json", "file": "config.json", "error": str(error)}]
    except (UserError, OSError):
        return found
    if any(problem["fault"] in UNREADABLE for problem in found):
        return found
    shards, broken = _shards(path)
    found += [*_adapters(path), *broken, *_index(path), *_headers(shards), *_vision(path, config, shards)]
    return [*found, *_links(path), *_texts(path), *_strays(path)]


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _shards(path: Path) -> tuple[list[Shard], list[Fault]]:
    shards: list[Shard] = []
    broken: list[Fault] = []
    for file in sorted(path.glob("model*.safetensors")):
        try:
            shards.append(Shard.open(file))
        except (UserError, OSError) as error:
            broken.append({"fault": "unreadable", "file": file.name, "error": str(error)})
    if not shards and not broken:
        broken.append({"fault": "no_weights", "file": "model*.safetensors"})
    return shards, broken


def _adapters(path: Path) -> Iterator[Fault]:
    """Adapters beside a base: the engine has no code for them."""
    beside = [file.name for file in sorted(path.glob("[!.]*.safetensors")) if not file.name.startswith("model")]
    beside += [name for name in (CONFIG,) if (path / name).exists()]
    if beside:
        yield {"fault": "adapters_ignored" if _index_is_right(path) else "adapters_refused", "file": beside}


def _index_is_right(path: Path) -> bool:
    try:
        named = named_by(path / INDEX)
    except UserError:
        return False
    return bool(named) and all((path / name).exists() for name in named)


def _index(path: Path) -> Iterator[Fault]:
    if not (path / INDEX).exists():
        return
    try:
        named = set(named_by(path / INDEX))
    except UserError as error:
        yield {"fault": "unreadable", "file": INDEX, "error": str(error)}
        return
    present = {file.name for file in path.glob("model*.safetensors")}
    for name in sorted(named - present):
        yield {"fault": "named_not_there", "file": name, "index": INDEX}
    for name in sorted(present - named):
        yield {"fault": "there_not_named", "file": name}


def _headers(shards: list[Shard]) -> Iterator[Fault]:
    for shard in shards:
        if not shard.is_mlx:
            yield {"fault": "no_format", "file": shard.path.name}


def _vision(path: Path, config: dict[str, Any], shards: list[Shard]) -> Iterator[Fault]:
    names = [tensor.name for shard in shards for tensor in shard.tensors]
    mixed = [shard.path.name for shard in shards if any(_is_adapter(tensor.name) for tensor in shard.tensors)]
    if mixed:
        yield {"fault": "adapter_tensors", "file": mixed}
    sees = any(families.is_vision(name) for name in names)
    if "vision_config" not in config:
        family = families.FAMILIES.get(config.get("model_type", ""))
        if sees or (family and family.vision):  # a model that never had eyes is a text-only model by right
            yield {"fault": "text_only", "file": "config.json"}
        return
    if names and not sees:
        yield {"fault": "no_vision", "file": f"{families.MLX_VLM.tower}.*"}
    if not (path / IMAGES).exists():
        yield {"fault": "no_preprocessor", "file": IMAGES}


def _is_adapter(name: str) -> bool:
    return ".lora_a" in name or ".lora_b" in name


def _links(path: Path) -> Iterator[Fault]:
    if path.is_symlink():
        yield {"fault": "linked_folder", "file": path.name}
    for file in sorted(path.iterdir()):
        if file.is_symlink():
            yield {"fault": "link" if file.exists() else "link_to_nothing", "file": file.name}


def _texts(path: Path) -> Iterator[Fault]:
    if not any(all((path / name).exists() for name in names) for names in TOKENIZERS):
        yield {"fault": "no_tokenizer", "file": "tokenizer.json"}
    templates = folder.template_of(path)
    if not templates:
        yield {"fault": "no_template", "file": folder.TEMPLATE}
    if len(set(templates.values())) > 1:
        yield {"fault": "templates_differ", "file": list(templates)}


def _strays(path: Path) -> Iterator[Fault]:
    for file in sorted(path.glob("._*")):
        yield {"fault": "apple_double", "file": file.name}
