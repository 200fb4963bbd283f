"""A deployed MLX folder in Hugging Face's layout: PyTorch's names and axes, bf16; for llama.cpp's conversion to GGUF.

What mlx-vlm or mlx-lm does when it reads such a folder, backwards: the parts have other names (`model.families`), a
convolution has its channels second, and experts lie in two packed tensors, those of a text-only model each for itself.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from medtune import files
from medtune.deployment import folder, matrices
from medtune.deployment.matrices import Matrix
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import families, guard, tensors
from medtune.model.families import Family
from medtune.model.tensors import INDEX, HeaderEntry, Shard, Weights, write_shard

SHARD = 4 * 2**30  # bytes of a file
COPIED = (*folder.VERBATIM, folder.TEMPLATE, *folder.TEMPLATE_COPIES)
EXPERT = re.compile(r"(.+\.mlp)\.switch_mlp\.(gate|up|down)_proj")


@dataclass(frozen=True)
class Exported:
    """A tensor to be written and how to make its numbers."""

    entry: HeaderEntry
    make: Callable[[], mx.array]  # in the shape of the entry, float32


def write(source: Path, out: Path, command: str = "make deploy") -> None:
    """Write the model folder ``source`` to ``out``, which must not exist."""
    if not (source / "config.json").exists():
        raise UserError(
            tr("{folder}: nothing is deployed there; run `{command}` first", folder=source, command=command)
        )
    guard.check(source)
    config = files.read_object(source / "config.json")
    family = families.of(config)
    if family.vision and "vision_config" not in config:
        raise UserError(tr("{folder}: no vision_config, a text-only conversion; use the Qwen3-VL model", folder=source))
    if out.exists():
        raise UserError(tr("{folder}: exists; name a folder that does not", folder=out))
    partial = out.with_name(f".partial-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was cut short
    partial.mkdir(parents=True)
    _write(source, partial, config, family)
    partial.rename(out)


def advice(out: Path) -> list[str]:
    """For the screen, after it is written: what it is good for."""
    sees = "vision_config" in files.read_json(out / "config.json")
    command = f"convert_hf_to_gguf.py {shlex.quote(str(out))}"
    return [
        tr("{folder}: the deployed model in Hugging Face's layout", folder=out),
        tr("for GGUF, in llama.cpp: {command}, and again with --mmproj", command=command)
        if sees
        else tr("for GGUF, in llama.cpp: {command}", command=command),
        tr(
            "llama.cpp must know the tokenizer: it goes by a list, in which Qwen's own stand; one that was trained or "
            "trimmed is refused there (BPE pre-tokenizer was not recognized)"
        ),
    ]


def _write(source: Path, out: Path, config: dict[str, Any], family: Family) -> None:
    made = list(pieces(Weights.open(source), config.get("quantization"), family))
    shards = list(_groups(made))
    written = []
    for number, group in enumerate(shards, 1):
        path = out / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(path, [piece.entry for piece in group], (_bf16(piece) for piece in group), {"format": "pt"})
        written.append(Shard.open(path))
    files.write_json(out / INDEX, tensors.index_of(written))
    for name in COPIED:
        if (source / name).exists():
            (out / name).write_bytes((source / name).read_bytes())
    kept = {key: value for key, value in config.items() if key not in ("quantization", "quantization_config")}
    files.write_json(out / "config.json", kept)


def pieces(weights: Weights, quantization: dict[str, Any] | None, family: Family) -> Iterator[Exported]:
    """Every tensor of the exported model, packed ones unpacked, experts joined."""
    for name, tensor in weights.tensors.items():
        module, _, leaf = name.rpartition(".")
        expert = EXPERT.fullmatch(module)
        if leaf in ("scales", "biases"):
            continue
        theirs = family.hf_name(name)
        if expert:
            yield from _experts(weights, quantization, family, expert[1], expert[2])
        elif name.endswith("patch_embed.proj.weight"):
            yield _piece(theirs, lambda t=tensor: _plain(t).transpose(0, 4, 1, 2, 3), _moved(tensor.shape))
        elif f"{module}.scales" in weights.tensors and leaf == "weight":
            matrix = matrices.find(weights.tensors, quantization, module)
            yield _piece(theirs, lambda m=matrix: whole(m), matrix.shape)
        else:
            yield _piece(theirs, lambda t=tensor: _plain(t), tensor.shape)


def _experts(
    weights: Weights, quantization: dict[str, Any] | None, family: Family, mlp: str, part: str
) -> Iterator[Exported]:
    """A layer's `experts.gate_up_proj` (E, K, 2N), gate and up side by side, and `experts.down_proj` (E, K, N).

    Of a text-only model `experts.<e>.gate_proj`, `up_proj` and `down_proj` (N, K) of each expert e.
    """
    if family.vision is None:
        matrix = matrices.find(weights.tensors, quantization, f"{mlp}.switch_mlp.{part}_proj")
        for e in range(matrix.experts):
            name = family.hf_name(f"{mlp}.experts.{e}.{part}_proj.weight")
            yield _piece(name, lambda e=e: whole(matrix, e), matrix.shape[1:])
        return
    if part == "up":
        return  # written with gate
    parts, name = (("down",), "down_proj") if part == "down" else (("gate", "up"), "gate_up_proj")
    found = [matrices.find(weights.tensors, quantization, f"{mlp}.switch_mlp.{p}_proj") for p in parts]
    count, rows, columns = found[0].shape

    def joined() -> mx.array:
        return mx.concatenate([whole(matrix).transpose(0, 2, 1) for matrix in found], axis=2)

    yield _piece(family.hf_name(f"{mlp}.experts.{name}"), joined, (count, columns, rows * len(found)))


def _piece(name: str, make: Callable[[], mx.array], shape: tuple[int, ...]) -> Exported:
    return Exported(HeaderEntry(name, "BF16", shape), make)


def whole(matrix: Matrix, expert: int | None = None) -> mx.array:
    """A matrix in its own shape, or that of one expert, float32."""
    places = [place for place in matrix.blocks() if expert in (None, place[0])]
    shape = matrix.shape if expert is None else matrix.shape[1:]
    return mx.concatenate([matrix.read(*place) for place in places]).reshape(shape)


def _plain(tensor: tensors.Tensor) -> mx.array:
    return matrices.array(tensor).reshape(tensor.shape).astype(mx.float32)


def _moved(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(O, D, H, W, I) -> (O, I, D, H, W)."""
    return (shape[0], shape[4], *shape[1:4])


def _bf16(piece: Exported) -> bytes:
    return np.array(piece.make().astype(mx.bfloat16).view(mx.uint16)).tobytes()


def _groups(made: list[Exported]) -> Iterator[list[Exported]]:
    """Cut the pieces into files of about SHARD bytes."""
    group: list[Exported] = []
    for piece in made:
        group.append(piece)
        if sum(item.entry.nbytes for item in group) >= SHARD:
            yield group
            group = []
    if group:
        yield group
