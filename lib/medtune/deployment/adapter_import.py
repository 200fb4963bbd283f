"""Adapters of other programs -> our portable form. What alpha and scale mean differs; here is how each is read.

PEFT               W + alpha / r * B A (rsLoRA: alpha / sqrt(r)); A (r, K), B (N, r), Hugging Face's names
mlx-lm             W + scale * (A B)^T: `scale` is the multiplier itself; A (K, r), B (r, N), MLX's names
mlx-vlm            the same tensors; its `alpha` was divided by the rank when `scale` was written
mlx-vlm, old form  `rank` and `alpha` alone, tensors `A` and `B`; W + alpha / rank * (A B)^T, as mlx-vlm reads it now

Of PEFT's LoraConfig a key is read, known to change nothing for the finished adapter, or refused by its name unless it
is off: one that PEFT adds later is refused until somebody has looked at what it means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from medtune import files
from medtune.deployment import deltas, matrices
from medtune.deployment.deltas import Delta
from medtune.errors import UserError, raise_all
from medtune.i18n import tr
from medtune.model import adapters, guard
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
LEFT_BESIDE = (  # of Hugging Face's trainer, about the training and never weights; nothing here opens them
    "training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth",
)  # fmt: skip
PEFT_READ = ("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights")
PEFT_HARMLESS = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"),  # whence
    *("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules"),  # where: the tensors say it
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "velora_config"),  # how it began and was trained
    *("ensure_weight_tying", "megatron_core", "qalora_group_size", "runtime_config"),  # of what is refused by itself
)
PEFT_OFF = (None, False, "none", "", [], {})
PEFT_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")  # that leave the base's matrices alone


@dataclass(frozen=True)
class Foreign:
    """An adapter as it was found: where from, its multiplier, its tensors under our names."""

    layout: str
    scale: float
    dropout: float
    dora: bool
    tensors: dict[str, mx.array]
    rank: int | None = None  # as its config states it, where the multiplier depends on it


def read(source: Path, family: Family, scale: float | None = None) -> Foreign:
    """Read a folder for a base of ``family``; its layout is told from its config.

    ``scale`` replaces the multiplier it states.
    """
    guard.check(source, LEFT_BESIDE)
    config = files.read_json(source / CONFIG)
    if not isinstance(config, dict):
        raise UserError(tr("{folder}: adapter_config.json of no known layout (PEFT, mlx-lm, mlx-vlm)", folder=source))
    path = next((source / name for name in FILES if (source / name).exists()), None)
    if path is None:
        raise UserError(tr("{folder}: no adapter weights ({names})", folder=source, names=", ".join(FILES)))
    Shard.open(path)  # says what is wrong with a file that is cut short or none
    stored = adapters.load_arrays(path)
    adapters.check_finite(stored, str(path))
    layout = _peft if "peft_type" in config else _mlx
    found = layout(source, family, config, stored)
    return found if scale is None else replace(found, scale=scale)


def _peft(source: Path, family: Family, config: Mapping[str, Any], stored: Mapping[str, mx.array]) -> Foreign:
    problems = list(_unread(config))
    tensors: dict[str, mx.array] = {}
    for name, value in stored.items():
        match = next(((leaf, turn, hit) for form, leaf, turn in PEFT_LEAVES if (hit := form.search(name))), None)
        if match is None:
            problems.append(tr("{name}: not a LoRA tensor of a linear layer", name=name))
            continue
        leaf, turn, hit = match
        ours = f"{family.mlx_name(name[: hit.start()].removeprefix('base_model.model.'))}.{leaf}"
        if ours in tensors:
            problems.append(tr("{name}: another tensor stands for the same matrix", name=name))
        tensors[ours] = value.T if turn else value
    raise_all(problems, str(source))
    rank = _stated(source, config, "r")
    scale = _stated(source, config, "lora_alpha") / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Foreign("peft", scale, _dropout(config, "lora_dropout"), bool(config.get("use_dora")), tensors, int(rank))


def _unread(config: Mapping[str, Any]) -> Iterator[str]:
    """Why a PEFT config means more than W + alpha / r * B A; the keys in question by their names."""
    if config["peft_type"] != "LORA":
        yield tr("peft_type {kind}: only LORA can be imported", kind=config["peft_type"])
    for key in ("use_rslora", "use_dora"):
        if config.get(key) not in (None, True, False):
            yield tr("{key}: {value!r} is neither true nor false", key=key, value=config[key])
    start = config.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in PEFT_STARTS:
        yield tr(
            "init_lora_weights: {value}: made for a base that was changed with it, not for this one; save it in PEFT "
            "with path_initial_model_for_weight_conversion, or merge it there",
            value=start,
        )
    for key, value in config.items():
        if key not in PEFT_READ + PEFT_HARMLESS and value not in PEFT_OFF:
            yield tr("{key}: not supported; merge it in PEFT, or train without it", key=key)


def _mlx(source: Path, family: Family, config: Mapping[str, Any], stored: Mapping[str, mx.array]) -> Foreign:
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise UserError(
            tr("{folder}: fine_tune_type {kind}; only lora and dora are adapters", folder=source, kind=kind)
        )
    named = {family.mlx_name(name): value for name, value in stored.items()}
    if "lora_parameters" in config:
        parameters = config["lora_parameters"] if isinstance(config["lora_parameters"], dict) else {}
        scale = _stated(source, parameters, "scale")
        return Foreign("mlx", scale, _dropout(parameters, "dropout"), kind == "dora", named)
    if "rank" not in config:
        raise UserError(tr("{folder}: adapter_config.json of no known layout (PEFT, mlx-lm, mlx-vlm)", folder=source))
    ours = {"A": "lora_a", "B": "lora_b"}
    split = [(*name.rpartition(".")[::2], value) for name, value in named.items()]
    renamed = {f"{module}.{ours.get(leaf, leaf)}": value for module, leaf, value in split}
    rank = _stated(source, config, "rank")
    scale = _stated(source, {"alpha": 0.1, **config}, "alpha") / rank
    return Foreign("mlx-vlm old", scale, _dropout(config, "dropout"), False, renamed, int(rank))


def _stated(source: Path, config: Mapping[str, Any], key: str) -> float:
    """A number above 0 that the adapter's config must state."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UserError(
            tr(
                "{folder}: adapter_config.json states no {key} (found {value!r}); copy the adapter again",
                folder=source,
                key=key,
                value=value,
            )
        )
    return float(value)


def _dropout(config: Mapping[str, Any], key: str) -> float:
    """The share it states, 0 where that is none: written down with an adapter, no part of what it does."""
    value = config.get(key)
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1 else 0.0


def write(found: Foreign, base: Base, out: Path, mark: str = "") -> AdapterConfig:
    """Write the portable form to ``out``, weights with their ``mark`` first.

    Every tensor without a place in ``base``, or misshapen, is listed instead.
    """
    adapted = deltas.paired(found.tensors, found.scale, found.dora, found.layout)
    if not adapted:
        raise UserError(tr("the adapters hold no tensor; copy the adapter again"))
    stored = Weights.open(base.path).tensors
    rank = found.rank or adapted[0].rank
    problems = [problem for delta in adapted if (problem := _misfit(delta, rank, stored, base))]
    raise_all(problems, tr("the adapters do not fit this base"))
    keys = tuple(delta.module for delta in adapted)
    config = AdapterConfig(rank, found.scale, found.dropout, keys, found.dora)
    out.mkdir(parents=True, exist_ok=True)
    adapters.save_tensors(out / WEIGHTS, {k: v.astype(mx.float32) for k, v in found.tensors.items()}, mark)
    files.write_json(out / CONFIG, config.to_json())
    return config


def _misfit(delta: Delta, rank: int, stored: dict[str, Tensor], base: Base) -> str | None:
    """Why an adapter has no place in the base, or not this multiplier."""
    if delta.rank != rank:
        return tr(
            "{module}: of rank {found}, not {rank}",
            module=delta.module,
            found=delta.rank,
            rank=rank,
        )
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
