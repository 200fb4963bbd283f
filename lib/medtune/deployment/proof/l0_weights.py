"""L0: every adapted matrix moved by what the adapter says, every other tensor is the base's, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from medtune import files
from medtune.deployment.proof import Fault, Subject, Verdict
from medtune.i18n import Words
from medtune.model.tensors import Tensor, Weights

if TYPE_CHECKING:
    from medtune.deployment.deltas import Delta
    from medtune.deployment.fidelity import Fidelity

NAME: Words = {"en": "weights", "zh": "权重"}
AFTER_COMMIT = False
FIGURES: Words = {
    "en": "{adapted} matrices moved (share ≥ {least_share:.3f}, cosine ≥ {least_cosine:.3f}), {untouched} tensors "
    "untouched",
    "zh": "{adapted} 个矩阵已改变（保留比例 ≥ {least_share:.3f}，余弦 ≥ {least_cosine:.3f}），{untouched} 个张量未动",
}
SENTENCES: dict[str, Words] = {
    "nothing_adapted": {"en": "the adapter changes no matrix", "zh": "适配器没有改变任何矩阵"},
    "lost": {
        "en": "{module}: {share:.2f} of the adapter's change is there, cosine {cosine:.2f}; use precision: auto, and "
        "where it is auto already train further: so small a change is lost in the base's own precision",
        "zh": "{module}：适配器的改变只保留了 {share:.2f}，余弦 {cosine:.2f}；请用 precision: auto；若已是 auto，"
        "请继续训练：这么小的改变会被基础模型自身的精度抹掉",
    },
    "in_one_only": {
        "en": "{tensor}: in only one of base and folder",
        "zh": "{tensor}：只在基础模型或文件夹其中一个里",
    },
    "not_the_bases": {"en": "{tensor}: differs from the base", "zh": "{tensor}：与基础模型不同"},
}
PARTS = ("weight", "scales", "biases")  # of a stored matrix; a layer's own bias is not adapted
LEAST = 0.9  # share of the delta, and for packed matrices cosine with it


def check(subject: Subject) -> Verdict:
    """Reads both folders again from the disk; knows nothing of how the folder was written."""
    if not subject.deltas:
        return Verdict.of([{"fault": "nothing_adapted"}])
    base, made = Weights.open(subject.base.path), Weights.open(subject.folder)
    quantization = files.read_json(subject.folder / "config.json").get("quantization")
    found = {delta.module: _measure(subject, base, made, quantization, delta) for delta in subject.deltas}
    parts = {f"{module}.{part}" for module in found for part in PARTS}
    theirs, ours = set(base.tensors) - parts, set(made.tensors) - parts
    faults = [fault for module, measured in found.items() for fault in lost(module, *measured)]
    faults += [{"fault": "in_one_only", "tensor": name} for name in sorted(theirs ^ ours)]
    faults += [
        {"fault": "not_the_bases", "tensor": name}
        for name in sorted(theirs & ours)
        if not identical(base.tensors[name], made.tensors[name])
    ]
    figures = {
        "adapted": len(found),
        "untouched": len(theirs & ours),
        "least_share": float(np.min([fidelity.share for fidelity, _ in found.values()])),
        "least_cosine": float(np.min([fidelity.cosine for fidelity, _ in found.values()])),
    }
    return Verdict.of(faults, figures)


def lost(module: str, fidelity: Fidelity, packed: bool) -> Iterator[Fault]:
    """A fault unless enough of the change is there: a figure that is no number is not enough."""
    least_cosine = LEAST if packed else 0.0
    if not (fidelity.share >= LEAST and fidelity.cosine >= least_cosine):
        yield {"fault": "lost", "module": module, "share": fidelity.share, "cosine": fidelity.cosine}


def _measure(
    subject: Subject, base: Weights, made: Weights, quantization: dict[str, Any] | None, delta: Delta
) -> tuple[Fidelity, bool]:
    """What of ``delta`` is in the folder, and whether the matrix is packed there."""
    from medtune.deployment import matrices
    from medtune.deployment.fidelity import Tally

    before = matrices.find(base.tensors, subject.base.quantization, delta.module)
    after = matrices.find(made.tensors, quantization, delta.module)
    tally = Tally()
    for place in before.blocks():
        block = before.read(*place)
        tally.add(block, delta.apply(block, *place), after.read(*place))
    return tally.fidelity, bool(after.form.bits)


def identical(a: Tensor, b: Tensor) -> bool:
    """Whether two stored tensors have the same type, shape and bytes; one file under two names need not be read."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    if a.file.samefile(b.file) and a.offset == b.offset:
        return True
    return all(x == y for x, y in zip_longest(a.chunks(), b.chunks()))
