"""A small Qwen3-VL folder with random weights, dense or mixture of experts, made on the fly for tests.

It takes tokenizer and processor files from the demo model, so that both libraries load it like a downloaded one.
"""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.demo.config import Shape, write
from medtune.model import families

if TYPE_CHECKING:
    import mlx.nn as nn

DEMO_MODEL = Path(__file__).resolve().parents[3] / "data" / "demo" / "model"
SHARED_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
GROUP = 32  # the smallest group MLX packs: every row of the small matrices is a multiple of it


def write_twin(
    folder: Path | str,
    *,
    moe: bool,
    layers: int = 4,
    hidden: int = 64,
    bits: int | None = None,
    tie: bool = False,
    seed: int = 0,
) -> Path:
    """Write a loadable model folder and return it; the same arguments give the same bytes.

    `hidden` is a multiple of 64. `bits` None gives float32; 4 or 8 quantises the language model's matrices as
    mlx-community does: embedding, head and experts too, the router at 8 bits, the vision tower not at all.
    """
    from tokenizers import Tokenizer

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHARED_FILES:
        shutil.copyfile(DEMO_MODEL / name, folder / name)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    shape = Shape(
        vocabulary=tokenizer.get_vocab_size(), hidden=hidden, layers=layers, heads=4, kv_heads=2,
        intermediate=hidden, experts=4 if moe else 0, tied=tie, vision_hidden=32, vision_layers=2,
        vision_heads=2, vision_intermediate=64, deepstack=(0,),
    )  # fmt: skip
    config = write(folder, shape, tokenizer)
    model = random_model(config, seed)
    if bits is not None:
        config["quantization"] = config["quantization_config"] = quantize(model, bits)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save(folder, model)
    return folder


def random_model(config: dict[str, Any], seed: int) -> nn.Module:
    """mlx-vlm's own model class for this config, in float32, with MLX's own start drawn from `seed`."""
    import mlx.core as mx

    module = importlib.import_module(families.of(config).classes)
    settings = module.ModelConfig.from_dict(json.loads(json.dumps(config)))
    mx.random.seed(seed)
    model = module.Model(settings)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def quantize(model: nn.Module, bits: int, group: int = GROUP) -> dict[str, Any]:
    """Quantise the language model in place as mlx-community does: the router at 8 bits, the vision tower not at all.

    Returns the `quantization` entry of config.json.
    """
    import mlx.nn as nn

    entry: dict[str, Any] = {"group_size": group, "bits": bits, "mode": "affine"}

    def how(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if families.is_vision(path) or not hasattr(module, "to_quantized"):
            return False
        if path.endswith("mlp.gate"):
            entry[path] = {"group_size": group, "bits": 8}
            return entry[path]
        return True

    nn.quantize(model, group_size=group, bits=bits, class_predicate=how)
    return entry


def save(folder: Path, model: nn.Module) -> None:
    """Write every tensor to model.safetensors with the header LM Studio and mlx look for."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
