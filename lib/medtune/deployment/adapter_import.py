"""Adapters of other programs -> our portable form. What alpha and scale mean differs; here is how each is read.

PEFT               W + alpha / r * B A (rsLoRA: alpha / sqrt(r)); A (r, K), B (N, r), Hugging Face's names
mlx-lm             W + scale * (A B)^T: `scale` is the multiplier itself; A (K, r), B (r, N), MLX's names
mlx-vlm            the same tensors; its `alpha` was divided by the rank when `scale` was written
mlx-vlm, old form  `rank` and `alpha` alone, tensors `A` and `B`; W + alpha / rank * (A B)^T, as mlx-vlm reads it now
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from medtune import files
from medtune.deployment import deltas, matrices
from medtune.deployment.deltas import Delta
from medtune.errors import UserError, raise_all
from medtune.i18n import tr
from medtune.model import adapters
from medtune.model.adapters import AdapterConfig
from medtune.model.base import Base
from medtune.model.families import Family
from medtune.model.tensors import Shard, Tensor, Weights
from medtune.run import CONFIG, WEIGHTS

FILES = ("adapter_model.safetensors", WEIGHTS, "weights.safetensors")
PEFT_LEAVES = (  # the end of PEFT's name, ours, whether it is transposed
    (re.compile(r"\.lora_A(\.default)?\.weight$"), "lora_a", True),
    (re.compile(r"\.lora_B(\.default)?\.weight$"), "lora_b", True),
    (re.compile(r"\.lora_magnitude_vector(\.default)?(\.weight)?$"), "m", False),
)
PEFT_UNREAD = ("rank_pattern", "alpha_pattern", "modules_to_save", "target_parameters")


@dataclass(frozen=True)
class Foreign:
    """An adapter as it was found: where from, its multiplier, its tensors under our names."""

    layout: str
    scale: float
    dropout: float
    dora: bool
    tensors: dict[str, mx.array]


def read(source: Path, family: Family, scale: float | None = None) -> Foreign:
    """Read a folder for a base of ``family``; its layout is told from its config.

    ``scale`` replaces the multiplier it states.
    """
    config = files.read_json(source / CONFIG)
    path = next((source / name for name in FILES if (source / name).exists()), None)
    if path is None:
        raise UserError(tr("{folder}: no adapter weights ({names})", folder=source, names=", ".join(FILES)))
    Shard.open(path)  # says what is wrong with a file that is cut short or none
    stored: Any = mx.load(str(path))
    layout = _peft if "peft_type" in config else _mlx
    found = layout(source, family, config, stored)
    return found if scale is None else Foreign(found.layout, scale, found.dropout, found.dora, found.tensors)


def _peft(source: Path, family: Family, config: Mapping[str, Any], stored: Mapping[str, mx.array]) -> Foreign:
    unread = [key for key in PEFT_UNREAD if config.get(key)]
    problems = [tr("{key}: not supported; merge it in PEFT first", key=key) for key in unread]
    if config["peft_type"] != "LORA":
        problems.append(tr("peft_type {kind}: only LORA can be imported", kind=config["peft_type"]))
    tensors = {}
    for name, value in stored.items():
        match = next(((leaf, turn, hit) for form, leaf, turn in PEFT_LEAVES if (hit := form.search(name))), None)
        if match is None:
            problems.append(tr("{name}: not a LoRA tensor of a linear layer", name=name))
            continue
        leaf, turn, hit = match
        module = family.mlx_name(name[: hit.start()].removeprefix("base_model.model."))
        tensors[f"{module}.{leaf}"] = value.T if turn else value
    raise_all(problems, str(source))
    rank = _stated(source, config, "r")
    scale = _stated(source, config, "lora_alpha") / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Foreign("peft", scale, float(config.get("lora_dropout", 0.0)), bool(config.get("use_dora")), tensors)


def _mlx(source: Path, family: Family, config: Mapping[str, Any], stored: Mapping[str, mx.array]) -> Foreign:
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise UserError(
            tr("{folder}: fine_tune_type {kind}; only lora and dora are adapters", folder=source, kind=kind)
        )
    named = {family.mlx_name(name): value for name, value in stored.items()}
    if "lora_parameters" in config:
        parameters = config["lora_parameters"]
        dropout = float(parameters.get("dropout", 0.0))
        return Foreign("mlx", _stated(source, parameters, "scale"), dropout, kind == "dora", named)
    if "rank" not in config:
        raise UserError(tr("{folder}: adapter_config.json of no known layout (PEFT, mlx-lm, mlx-vlm)", folder=source))
    ours = {"A": "lora_a", "B": "lora_b"}
    split = [(*name.rpartition(".")[::2], value) for name, value in named.items()]
    renamed = {f"{module}.{ours.get(leaf, leaf)}": value for module, leaf, value in split}
    scale = config.get("alpha", 0.1) / _stated(source, config, "rank")
    return Foreign("mlx-vlm old", scale, float(config.get("dropout", 0.0)), False, renamed)


def _stated(source: Path, config: Mapping[str, Any], key: str) -> float:
    """A number above 0 that the adapter's config must state."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise UserError(
            tr(
                "{folder}: adapter_config.json states no {key} (found {value!r}); copy the adapter again",
                folder=source,
                key=key,
                value=value,
            )
        )
    return float(value)


def write(found: Foreign, base: Base, out: Path, mark: str = "") -> AdapterConfig:
    """Write the portable form to ``out``, weights with their ``mark`` first.

    Every tensor without a place in ``base``, or misshapen, is listed instead.
    """
    adapted = deltas.paired(found.tensors, found.scale, found.dora, found.layout)
    stored = Weights.open(base.path).tensors
    problems = [problem for delta in adapted if (problem := _misfit(delta, stored, base))]
    raise_all(problems, tr("the adapters do not fit this base"))
    keys = tuple(delta.module for delta in adapted)
    config = AdapterConfig(adapted[0].rank, found.scale, found.dropout, keys, found.dora)
    out.mkdir(parents=True, exist_ok=True)
    adapters.save_tensors(out / WEIGHTS, {k: v.astype(mx.float32) for k, v in found.tensors.items()}, mark)
    files.write_json(out / CONFIG, config.to_json())
    return config


def _misfit(delta: Delta, stored: dict[str, Tensor], base: Base) -> str | None:
    """Why an adapter has no place in the base."""
    if f"{delta.module}.weight" not in stored:
        return tr("{module}: the base model has no such matrix", module=delta.module)
    matrix = matrices.find(stored, base.quantization, delta.module)
    if delta.fits(matrix):
        return None
    return tr(
        "{module}: the adapter is for {adapter}, the base has {base}",
        module=delta.module,
        adapter=delta.shape,
        base=matrix.shape,
    )
