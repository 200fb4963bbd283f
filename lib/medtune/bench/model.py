"""The model of a job: a Qwen3-VL with random weights in any shape, for speed does not ask what a model knows."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from medtune import files
from medtune.demo import config as blueprint
from medtune.demo import random_model
from medtune.errors import UserError
from medtune.model import families
from medtune.model import published as known

HEAD = 64  # width of an attention head; two of them share one of keys and values
VISUAL_TOKENS = 256  # of one image at most: 512 x 512 pixels
GROUP = 64  # of quantised weights, as mlx-community's
TURN_END = "{{- '<|im_end|>\\n' }}"  # ends the assistant's turn in the demo model's template
LAST_TURN_END = "{{- '<|im_end|>' ~ ('' if loop.last else '\\n') }}"


@dataclass(frozen=True)
class ModelSize:
    """A dense Qwen3-VL of some layers, or the shapes of a published one at 4 bits."""

    layers: int = 12
    hidden: int = 384
    published: str = ""  # name in ``medtune.model.published``, e.g. Qwen3-VL-30B-A3B-Instruct


def write(folder: Path, size: ModelSize, seed: int = 0) -> Path:
    """Write a model folder that mlx-lm and mlx-vlm load; the weights are made and written a layer at a time."""
    if size.hidden % (2 * HEAD):
        raise UserError(f"hidden {size.hidden}: choose a multiple of {2 * HEAD}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in random_model.SHARED_FILES:
        shutil.copyfile(random_model.DEMO_MODEL / name, folder / name)
    _write_template(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    shape = blueprint.Shape(
        vocabulary=tokenizer.get_vocab_size(),
        hidden=size.hidden,
        layers=size.layers,
        heads=size.hidden // HEAD,
        kv_heads=size.hidden // HEAD // 2,
        intermediate=size.hidden * 5 // 2 // 32 * 32,
        vision_hidden=192,
        vision_layers=6,
        vision_heads=6,
        vision_intermediate=512,
        deepstack=(1, 3),
    )
    config = blueprint.write(folder, shape, tokenizer)
    _allow_larger_images(folder)
    if size.published:
        config = _published(size.published, config)
    _write_weights(folder, config, seed, bits=4 if size.published else None)
    files.write_json(folder / "config.json", config)
    return folder


def _write_template(folder: Path) -> None:
    """End the last turn with its end token: mlx-vlm supervises all that follows the prompt, we only what is learned."""
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    head, assistant, rest = template.partition("message.role == 'assistant'")
    if TURN_END not in rest:
        raise ValueError(f"{folder}: the demo model's template does not end a turn as expected")
    text = head + assistant + rest.replace(TURN_END, LAST_TURN_END, 1)
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    files.write_json(folder / "chat_template.json", {"chat_template": text})


def _allow_larger_images(folder: Path) -> None:
    """Up to 256 visual tokens an image, where the demo model's processor stops at 64."""
    path = folder / "preprocessor_config.json"
    processor = files.read_json(path)
    processor["size"]["longest_edge"] = VISUAL_TOKENS * (blueprint.PATCH * blueprint.MERGE) ** 2
    files.write_json(path, processor)


def _published(name: str, own: dict[str, Any]) -> dict[str, Any]:
    """The published model's config.json with the token ids of our tokenizer, which is far smaller than its head."""
    config = known.config(name)
    if config is None:
        raise ValueError(f"{name}: not in medtune.known")
    ids = {key: own[key] for key in own if key.endswith("_token_id")}
    return config | ids | {"vocab_size": config["text_config"]["vocab_size"]}


def _write_weights(folder: Path, config: dict[str, Any], seed: int, bits: int | None) -> None:
    """One shard per decoder layer and one for the rest; a layer's arrays exist only while they are written."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    from medtune.model.architecture import Architecture

    module = importlib.import_module(families.of(config).classes)
    mx.random.seed(seed)
    model = module.Model(module.ModelConfig.from_dict(json.loads(json.dumps(config))))  # lazy: nothing is drawn yet
    model.set_dtype(mx.bfloat16 if bits else mx.float32)
    if bits:
        config["quantization"] = config["quantization_config"] = random_model.quantize(model, bits, GROUP)
    for shard in folder.glob("model*.safetensors"):  # of an earlier model, perhaps with more layers
        shard.unlink()
    architecture = Architecture.of(model)
    layers = architecture.layers
    places: dict[str, str] = {}

    def save(name: str, prefix: str, part: nn.Module) -> None:
        tensors: dict[str, Any] = {f"{prefix}{key}": value for key, value in tree_flatten(part.parameters())}
        mx.save_safetensors(str(folder / name), tensors, {"format": "mlx"})
        places.update(dict.fromkeys(tensors, name))

    for index in range(len(layers)):
        save(f"model-layer-{index:02d}.safetensors", f"{architecture.family.layers}.{index}.", layers[index])
        layers[index] = nn.Module()
        mx.clear_cache()
    save("model-rest.safetensors", "", model)
    files.write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
