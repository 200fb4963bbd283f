"""LoRA adapters: where they attach, what they are, and the portable folder mlx-lm and mlx-vlm both load."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.models import switch_layers as text_layers
from mlx_vlm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_vlm.trainer.peft.dora_layers import DoRALinear
from mlx_vlm.trainer.peft.lora_layers import LoRALinear, LoRASwitchLinear
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medtune import files
from medtune.config import errors as config_errors
from medtune.errors import UserError, is_out_of_memory, raise_all
from medtune.i18n import tr
from medtune.model import arrays, libraries
from medtune.model.architecture import Architecture
from medtune.model.arrays import flat
from medtune.model.claim import MARK
from medtune.model.tensors import Shard
from medtune.run import CONFIG, WEIGHTS, Run
from medtune.schemas import Lora

ADAPTED = (LoRALinear, LoRASwitchLinear, DoRALinear)
LINEAR = (nn.Linear, nn.QuantizedLinear)
SWITCH = (SwitchLinear, QuantizedSwitchLinear, text_layers.SwitchLinear, text_layers.QuantizedSwitchLinear)


@dataclass(frozen=True)
class AdapterConfig:
    """What a portable adapter_config.json says; ``keys`` are full module paths, ``scale`` the raw multiplier."""

    rank: int
    scale: float
    dropout: float
    keys: tuple[str, ...]
    dora: bool = False

    def to_json(self) -> dict[str, Any]:
        """The keys both libraries read; ``num_layers: -1`` makes them go by full paths."""
        return {
            "fine_tune_type": "dora" if self.dora else "lora",
            "num_layers": -1,
            "lora_parameters": {
                "rank": self.rank,
                "scale": self.scale,
                "dropout": self.dropout,
                "keys": list(self.keys),
            },
        }

    @classmethod
    def read(cls, folder: Path) -> AdapterConfig:
        """Read a folder's adapter_config.json, as its training left it; one that lacks full paths is refused."""
        Run(folder).as_trained(CONFIG)
        path = folder / CONFIG
        raw = files.read_object(path)
        parameters = raw.get("lora_parameters")
        missing = [key for key in ("rank", "scale", "keys") if key not in (parameters or {})]
        if missing:
            raise UserError(
                tr(
                    "{path}: lora_parameters lacks a usable {keys}; import it with tools/import_adapter.py",
                    path=path,
                    keys=", ".join(missing),
                )
            )
        try:
            stated = _Stated.model_validate(parameters)
        except ValidationError as error:
            raise_all(config_errors.problems(error, _Stated, {}), f"{path}: lora_parameters")
            raise
        dora = raw.get("fine_tune_type") == "dora"
        return cls(stated.rank, float(stated.scale), float(stated.dropout), tuple(stated.keys), dora)


class _Stated(BaseModel):
    """What `lora_parameters` must be."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    rank: int = Field(ge=1, le=2**16)
    scale: float
    dropout: float = Field(0.0, ge=0, lt=1)
    keys: list[str] = Field(min_length=1)


def scale_of(lora: Lora) -> float:
    """The multiplier of ``lora_a @ lora_b``: alpha / rank, with rsLoRA alpha / sqrt(rank) (Kalajdzievski 2023)."""
    return lora.alpha / (math.sqrt(lora.rank) if lora.rslora else lora.rank)


def target_names(model: nn.Module, lora: Lora) -> list[str]:
    """Full names of the modules to adapt: ``keys`` in the last ``num_layers`` decoder layers, vision when asked.

    A key is a module's last name (``q_proj``) or the end of its path (``mlp.gate``); one that matches nothing, and
    the router unless it is asked for by its name, is never adapted silently.
    """
    architecture = Architecture.of(model)
    family, depth = architecture.family, len(architecture.layers)
    modules = {name: module for name, module in model.named_modules() if isinstance(module, LINEAR + SWITCH)}
    prefixes = tuple(f"{family.layers}.{index}." for index in range(lora.lowest(depth), depth))
    chosen = lora.chosen([name for name in modules if name.startswith(prefixes)], depth)
    for part, asked in (("vision", lora.vision), ("merger", lora.merger)):
        chosen += [name for name in modules if asked and family.part(name) == part]
    return chosen


def attach(model: nn.Module, lora: Lora, names: list[str] | None = None) -> AdapterConfig:
    """Freeze ``model``, put fresh adapters at ``names`` (default: the config's targets) and return what was done."""
    keys = tuple(target_names(model, lora) if names is None else names)
    config = AdapterConfig(lora.rank, scale_of(lora), lora.dropout, keys, lora.dora)
    _wrap(model, config)
    return config


def _wrap(model: nn.Module, config: AdapterConfig) -> None:
    modules = dict(model.named_modules())
    raise_all([f"{key}: the model has no such module" for key in config.keys if key not in modules], CONFIG)
    model.freeze()
    wrapped = []
    for key in config.keys:
        module = modules[key]
        kind: Any = LoRASwitchLinear if isinstance(module, SWITCH) else DoRALinear if config.dora else LoRALinear
        if config.dora and kind is LoRASwitchLinear:
            raise UserError(f"{key}: DoRA does not exist for experts; set lora.dora to false or leave experts out")
        layer = kind.from_base(module, r=config.rank, dropout=config.dropout, scale=config.scale)
        layer.freeze()
        layer.unfreeze(recurse=False, keys=["lora_a", "lora_b"] + (["m"] if config.dora else []))
        wrapped.append((key, layer))
    model.update_modules(tree_unflatten(wrapped))


def load(model: nn.Module, folder: Path, weights: str = WEIGHTS) -> AdapterConfig:
    """Put the adapters of ``folder`` onto a fresh base, as they were trained.

    Every mismatch of names or shapes is listed and refused.
    """
    config = AdapterConfig.read(folder)
    _wrap(model, config)
    load_tensors(model, folder / weights)
    return config


def read_tensors(path: Path) -> dict[str, mx.array]:
    """The tensors of an adapter file by full name; a UserError where it is missing, damaged or not finite.

    In the folder of a finished run it must be what the training left.
    """
    Run(path.parent).as_trained(path.name)
    try:
        Shard.open(path)  # MLX would find a short file only when it reads the tensors
    except FileNotFoundError:
        raise UserError(tr("{path}: no such adapter file; bring it back or train again", path=path)) from None
    except UserError:
        raise UserError(tr("{path}: damaged; bring it back or train again", path=path)) from None
    stored = load_arrays(path)
    check_finite(stored, str(path))
    return stored


def load_arrays(path: Path) -> dict[str, mx.array]:
    """MLX's arrays of a safetensors file whose header is sound; a UserError where MLX knows a type of it not."""
    try:
        stored: Any = mx.load(str(path))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            tr("{path}: cannot be read ({error}); download the model again", path=path, error=libraries.shown(error))
        ) from None
    return stored


def check_finite(tensors: Mapping[str, mx.array], where: str) -> None:
    """Raise a UserError that names the tensors with a NaN or an infinity among their numbers."""
    spoiled = [name for name, value in tensors.items() if not mx.isfinite(value).all().item()]
    if spoiled:
        raise UserError(
            tr(
                "{where}: {n} of {all} tensors hold numbers that are not finite (first: {first}): a training that "
                "diverged; take an earlier checkpoint, or train with a lower learning rate",
                where=where,
                n=len(spoiled),
                all=len(tensors),
                first=spoiled[0],
            )
        )


def load_tensors(model: nn.Module, path: Path) -> None:
    """Fill attached adapters from a file that must hold exactly their tensors."""
    stored = read_tensors(path)
    expected = flat(model.trainable_parameters())
    problems = [f"{name}: missing" for name in expected if name not in stored]
    problems += [f"{name}: no adapter there" for name in stored if name not in expected]
    problems += [
        f"{name}: shape {stored[name].shape}, expected {value.shape}"
        for name, value in expected.items()
        if name in stored and stored[name].shape != value.shape
    ]
    raise_all(problems, str(path))
    model.update(tree_unflatten(list(stored.items())))


def tensors(model: nn.Module) -> dict[str, mx.array]:
    """The adapters' tensors by full name, float32."""
    return {name: value.astype(mx.float32) for name, value in flat(model.trainable_parameters()).items()}


def save_tensors(path: Path, tensors: dict[str, mx.array], mark: str = "") -> None:
    """Write finite adapter tensors atomically; the header says that they are MLX's, and by ``mark`` what made them."""
    check_finite(tensors, str(path))
    arrays.save(path, tensors, {"format": "mlx"} | ({MARK: mark} if mark else {}))


def save(folder: Path, name: str, model: nn.Module, config: AdapterConfig, mark: str = "") -> int:
    """Write the model's adapters as ``folder/name``, then their adapter_config.json; returns the bytes written."""
    save_tensors(folder / name, tensors(model), mark)
    files.write_json(folder / CONFIG, config.to_json())
    return (folder / name).stat().st_size


def census(model: nn.Module) -> dict[str, int]:
    """Trainable parameters by the kind of module they sit on."""
    family = Architecture.of(model).family
    counts: dict[str, int] = dict.fromkeys(("attention", "mlp", "expert", "router", "vision", "merger"), 0)
    for name, value in flat(model.trainable_parameters()).items():
        counts[family.part(name)] += value.size
    return counts


@contextmanager
def scaled(model: nn.Module, factor: float) -> Iterator[None]:
    """Multiply every adapter's effect by ``factor`` meanwhile; 0 gives the base model's answers exactly."""
    layers: list[Any] = [module for _, module in model.named_modules() if isinstance(module, ADAPTED)]
    before = [(layer, layer.scale, layer.get("m")) for layer in layers]
    for layer, scale, magnitude in before:
        layer.scale = scale * factor
        if magnitude is not None and factor == 0:  # DoRA: also the learned magnitude
            layer.m = mx.linalg.norm(layer._dequantized_weight().astype(mx.float32), axis=1)
    try:
        yield
    finally:
        for layer, scale, magnitude in before:
            layer.scale = scale
            if magnitude is not None:
                layer.m = magnitude
