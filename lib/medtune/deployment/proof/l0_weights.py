"""L0: every adapted matrix moved by what the adapter says, every other tensor is the base's, bit for bit."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from medtune import files
from medtune.deployment import matrices
from medtune.deployment.deltas import Delta
from medtune.deployment.fidelity import Survival, Tally
from medtune.deployment.proof import Subject
from medtune.i18n import tr
from medtune.model.tensors import Tensor, Weights

NAME = "weights"
AFTER_COMMIT = False
PARTS = ("weight", "scales", "biases")  # of a stored matrix; a layer's own bias is not adapted
LEAST = 0.9  # share of the delta, and for packed matrices cosine with it


def check(subject: Subject) -> tuple[str, dict[str, Any], str]:
    """Reads both folders again from the disk; knows nothing of how the folder was written."""
    base, made = Weights.open(subject.base.path), Weights.open(subject.folder)
    quantization = files.read_json(subject.folder / "config.json").get("quantization")
    adapted = {delta.module for delta in subject.deltas}
    problems, survivals = [], {}
    for delta in subject.deltas:
        survival, packed = _measure(subject, base, made, quantization, delta)
        survivals[delta.module] = survival
        if survival.share < LEAST or (packed and survival.cosine < LEAST):
            problems.append(_lost(delta.module, survival))
    parts = {f"{module}.{part}" for module in adapted for part in PARTS}
    theirs, ours = set(base.tensors) - parts, set(made.tensors) - parts
    problems += [tr("{name}: in only one of base and folder", name=name) for name in sorted(theirs ^ ours)]
    shared = sorted(theirs & ours)
    problems += [
        tr("{name}: differs from the base", name=name)
        for name in shared
        if not identical(base.tensors[name], made.tensors[name])
    ]
    figures = {
        "adapted": len(adapted),
        "untouched": len(shared),
        "least_share": min((s.share for s in survivals.values()), default=1.0),
        "least_cosine": min((s.cosine for s in survivals.values()), default=1.0),
    }
    return ("failed" if problems else "passed"), figures, "; ".join(problems[:10])


def _measure(
    subject: Subject, base: Weights, made: Weights, quantization: dict[str, Any] | None, delta: Delta
) -> tuple[Survival, bool]:
    """What of ``delta`` is in the folder, and whether the matrix is packed there."""
    before = matrices.find(base.tensors, subject.base.quantization, delta.module)
    after = matrices.find(made.tensors, quantization, delta.module)
    tally = Tally()
    for place in before.blocks():
        block = before.read(*place)
        tally.add(block, delta.apply(block, *place), after.read(*place))
    return tally.survival, bool(after.form.bits)


def _lost(module: str, survival: Survival) -> str:
    return tr(
        "{module}: {share:.2f} of the adapter's change is there, cosine {cosine:.2f}; use precision: auto, and where "
        "it is auto already train further: so small a change is lost in the base's own precision",
        module=module,
        share=survival.share,
        cosine=survival.cosine,
    )


def identical(a: Tensor, b: Tensor) -> bool:
    """Whether two stored tensors have the same type, shape and bytes; one file under two names need not be read."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    if a.file.samefile(b.file) and a.offset == b.offset:
        return True
    return all(x == y for x, y in zip_longest(a.chunks(), b.chunks()))
