"""How much of an intended change of a matrix a stored one holds.

W the base, T = W + the adapter's change, R what a reader of the stored form gets back.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import mlx.core as mx

KEPT = 0.95  # auto: least share of the delta that must survive, and least cosine with it
NOISE = 0.02  # auto: most that rounding may move the weights, as a share of them; 4 bits move them by about 0.09


@dataclass(frozen=True)
class Fidelity:
    """How a stored change R - W compares with the intended one D = T - W."""

    share: float  # <R - W, D> / <D, D>: 1 when all of it is there
    cosine: float  # between R - W and D: below 1 by the noise of rounding
    relative: float  # |D| / |W|
    noise: float  # |R - T| / |T|: what rounding adds, over the whole matrix

    @property
    def kept(self) -> bool:
        """Whether ``auto`` is content: a large change survives 4 bits, but the matrix around it is rounded twice."""
        return self.share >= KEPT and self.cosine >= KEPT and self.noise <= NOISE


@dataclass
class Tally:
    """Sums over blocks from which a Fidelity is computed."""

    dot: float = 0.0
    intended: float = 0.0
    stored: float = 0.0
    base: float = 0.0
    target: float = 0.0

    def add(self, base: mx.array, target: mx.array, stored: mx.array) -> None:
        """Count one block, all (R, K) float32."""
        intended, actual = target - base, stored - base
        self.dot += _dot(actual, intended)
        self.intended += _dot(intended, intended)
        self.stored += _dot(actual, actual)
        self.base += _dot(base, base)
        self.target += _dot(target, target)

    @property
    def fidelity(self) -> Fidelity:
        """The figures; a change that was not intended counts as kept when nothing moved."""
        noise = _ratio(self.stored - 2 * self.dot + self.intended, self.target)
        if self.intended == 0:
            still = float(self.stored == 0)
            return Fidelity(still, still, 0.0, noise)
        cosine = self.dot / sqrt(self.intended * self.stored) if self.stored else 0.0
        return Fidelity(self.dot / self.intended, cosine, _ratio(self.intended, self.base), noise)


def _ratio(square: float, other: float) -> float:
    """Of two norms, given squared."""
    return sqrt(max(square, 0.0) / other) if other else 0.0  # in this order what is no number stays none


def _dot(a: mx.array, b: mx.array) -> float:
    return (a * b).sum().item()  # type: ignore[return-value]
