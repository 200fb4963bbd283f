"""Base + adapters -> the tensors of one model: only adapted matrices change, and how much of each change survives.

Read and written by blocks of rows, shard by shard: the memory needed is a few blocks and one stored matrix, whatever
the size of the model. A plan is made first, so that its sizes and losses are known before a byte is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from medtune.deployment import disk, matrices
from medtune.deployment.deltas import Delta
from medtune.deployment.fidelity import Fidelity, Tally
from medtune.deployment.matrices import Form, Matrix
from medtune.errors import raise_all
from medtune.i18n import tr
from medtune.model import families
from medtune.model.tensors import HeaderEntry, Shard, Tensor, Weights, write_shard

Precision = Literal["keep", "bf16", "8bit", "4bit", "auto"]
GROUPS = (64, 32)  # group sizes for a matrix that was not packed before


@dataclass(frozen=True)
class Change:
    """One adapted matrix: what it was, what is added, and the form it will be stored in."""

    matrix: Matrix
    delta: Delta
    form: Form
    fidelity: Fidelity

    @property
    def entries(self) -> list[HeaderEntry]:
        """The tensors to be written."""
        return self.form.entries(self.matrix.module, self.matrix.shape)

    @property
    def facts(self) -> dict[str, Any]:
        """For the receipt."""
        return {"name": self.matrix.module, "precision": self.form.label, **asdict(self.fidelity)}


def plan(
    weights: Weights, quantization: dict[str, Any] | None, deltas: list[Delta], precision: Precision
) -> list[Change]:
    """Decide how each adapted matrix is stored; adapters that fit no matrix of the base are listed and refused."""
    found = [(matrices.find(weights.tensors, quantization, delta.module), delta) for delta in deltas]
    problems = [
        tr(
            "{module}: the adapter is for {adapter}, the base has {base}",
            module=delta.module,
            adapter=delta.shape,
            base=matrix.shape,
        )
        for matrix, delta in found
        if not delta.fits(matrix)
    ]
    raise_all(problems, tr("the adapters do not fit this base"))
    return [_choose(matrix, delta, precision) for matrix, delta in found]


def _choose(matrix: Matrix, delta: Delta, precision: Precision) -> Change:
    change = None
    for form in _forms(matrix, precision):
        change = Change(matrix, delta, form, _fidelity(matrix, delta, form))
        if change.fidelity.kept:
            break
    assert change is not None  # there is always a form
    return change


def _forms(matrix: Matrix, precision: Precision) -> list[Form]:
    """The forms to try, smallest first. The vision tower, and what the base keeps in float, is not packed by auto."""
    half = Form("F16" if matrix.form.dtype == "F16" else "BF16")
    if precision == "keep" or (precision == "auto" and not matrix.form.bits):
        return [matrix.form]
    packed = [_packed(matrix, bits, half) for bits in ({"8bit": [8], "4bit": [4]}.get(precision, []))]
    if packed and packed[0] is not None and not families.is_vision(matrix.module):
        return [packed[0]]
    if precision != "auto":
        return [half if precision == "bf16" or matrix.form.bits else matrix.form]
    eight = _packed(matrix, 8, half) if (matrix.form.bits or 8) < 8 else None
    return [matrix.form, *([eight] if eight else []), half]


def _packed(matrix: Matrix, bits: int, half: Form) -> Form | None:
    """An affine form of so many bits for this matrix, None where its columns fit no group size."""
    affine = matrix.form.bits and matrix.form.mode == "affine"
    sizes = (matrix.form.group_size,) if affine else GROUPS
    dtype = matrix.form.dtype if affine else half.dtype
    forms = (Form(dtype, bits, size) for size in sizes)
    return next((form for form in forms if form.fits(matrix.shape[-1])), None)


def _fidelity(matrix: Matrix, delta: Delta, form: Form) -> Fidelity:
    tally = Tally()
    for place in matrix.blocks():
        base = matrix.read(*place)
        target = delta.apply(base, *place)
        tally.add(base, target, form.store(target)[1])
    return tally.fidelity


def write(weights: Weights, changes: list[Change], folder: Path) -> None:
    """Write every tensor of the base, the changed ones in their new form, as MLX shards into ``folder``.

    A shard without a changed matrix is cloned or linked where the file system can, otherwise copied byte for byte.
    """
    by_module = {change.matrix.module: change for change in changes}
    replaced = {part.name for change in changes for part in change.matrix.parts}
    count = len(weights.shards)
    for number, shard in enumerate(weights.shards, 1):
        path = folder / ("model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors")
        if shard.is_mlx and not any(tensor.name in replaced for tensor in shard.tensors):
            disk.real_copy(shard.path, path)
        else:
            pieces = list(_pieces(shard, by_module, replaced))
            entries = [entry for piece in pieces for entry in _entries(piece)]
            write_shard(path, entries, (chunk for piece in pieces for chunk in _chunks(piece)))


def _pieces(shard: Shard, by_module: dict[str, Change], replaced: set[str]) -> Iterator[Tensor | Change]:
    """What stands in a shard, in its order; a changed matrix stands, whole, where its weight stood."""
    for tensor in shard.tensors:
        module, _, leaf = tensor.name.rpartition(".")
        if tensor.name not in replaced:
            yield tensor
        elif leaf == "weight":
            yield by_module[module]


def _entries(piece: Tensor | Change) -> list[HeaderEntry]:
    return piece.entries if isinstance(piece, Change) else [HeaderEntry(piece.name, piece.dtype, piece.shape)]


def _chunks(piece: Tensor | Change) -> Iterator[bytes]:
    if isinstance(piece, Tensor):
        yield from piece.chunks()
        return
    parts: list[list[bytes]] = [[] for _ in piece.entries]  # one stored matrix: the only thing held whole
    for place in piece.matrix.blocks():
        stored, _ = piece.form.store(piece.delta.apply(piece.matrix.read(*place), *place))
        for part, chunk in zip(parts, stored, strict=True):
            part.append(chunk)
    for part in parts:
        yield from part


def quantization_after(quantization: dict[str, Any] | None, changes: list[Change]) -> dict[str, Any] | None:
    """config.json's `quantization` with the entries the changed matrices need; None where all is float.

    A matrix left in float has no scales and needs no entry; the loaders go by the scales.
    """
    after = dict(quantization or {})
    packed = [change for change in changes if change.form.bits]
    if not after and packed:
        after = dict(packed[0].form.packing)
    for change in changes:
        module = change.matrix.module
        for name in families.listed(module):
            after.pop(name, None)
        if change.form.bits and {key: after.get(key, "affine") for key in change.form.packing} != change.form.packing:
            after[module] = change.form.packing
    return after or None
