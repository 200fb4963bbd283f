"""Is the difference between two models real? Paired comparison of their scores on the same items.

Items of one patient, conversation or image are not independent, so intervals and tests go by cluster: ignoring that
gave 74.5 % coverage of a nominal 95 % interval in published simulations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
BLOCK = 500  # resamples drawn at a time: bounded memory for any number of clusters
Z95, Z80 = 1.959963984540054, 0.8416212335729143  # normal quantiles: two-sided 5 %, power 80 %


@dataclass(frozen=True)
class Pair:
    """One item's score in [0, 1] with the baseline and with the tuned model."""

    baseline: float
    tuned: float
    cluster: str
    stratum: str = ""

    @property
    def delta(self) -> float:
        """Tuned minus baseline."""
        return self.tuned - self.baseline


@dataclass(frozen=True)
class Comparison:
    """Mean scores, their difference with a 95 % interval, and the p of no difference.

    ``detectable``: the difference that this many clusters with this scatter would find in four of five repetitions.
    """

    n: int
    clusters: int
    baseline: float
    tuned: float
    delta: float
    ci_low: float
    ci_high: float
    p: float
    test: str
    detectable: float


def compare(
    pairs: Sequence[Pair], weights: Mapping[str, float] | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> Comparison:
    """Compare two models on the same items; with ``weights`` the mean is weighted by stratum (normalised).

    Interval: percentiles of a paired cluster bootstrap within the kinds of clusters. Test: exact McNemar for 0/1
    scores of independent items in one stratum, else sign flips of whole clusters.
    """
    if not pairs:
        raise ValueError("nothing to compare")
    strata = sorted({pair.stratum for pair in pairs})
    share = _shares(strata, weights)
    table = _Table.of(pairs, strata)
    contributions = _contributions(pairs, share)
    binary = all(score in (0.0, 1.0) for pair in pairs for score in (pair.baseline, pair.tuned))
    independent = table.clusters == len(pairs) and len(strata) == 1
    if binary and independent:
        test, p = "mcnemar", mcnemar(sum(pair.delta > 0 for pair in pairs), sum(pair.delta < 0 for pair in pairs))
    else:
        test, p = "sign_flip", sign_flip(list(contributions.values()), seed=seed, resamples=resamples)
    draws = table.bootstrap(np.array([share[name] for name in strata]), seed, resamples)
    low, high = np.percentile(draws, [2.5, 97.5])
    means = {kind: _mean(pairs, kind, share) for kind in ("baseline", "tuned")}
    delta = means["tuned"] - means["baseline"]
    return Comparison(
        n=len(pairs),
        clusters=table.clusters,
        **means,
        delta=delta,
        ci_low=float(low),
        ci_high=float(high),
        p=p,
        test=test,
        detectable=(Z95 + Z80) * _standard_error(pairs, share),
    )


def _shares(strata: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    chosen = {name: (weights or {}).get(name, 1.0 if weights is None else 0.0) for name in strata}
    total = sum(chosen.values())
    if total <= 0:
        raise ValueError(f"no weight above 0 among {', '.join(strata)}")
    return {name: weight / total for name, weight in chosen.items()}


def _mean(pairs: Sequence[Pair], kind: str, share: Mapping[str, float]) -> float:
    means = {name: np.mean([getattr(pair, kind) for pair in pairs if pair.stratum == name]) for name in share}
    return float(sum(share[name] * mean for name, mean in means.items()))


def _contributions(pairs: Sequence[Pair], share: Mapping[str, float]) -> dict[str, float]:
    """What each cluster adds to the weighted mean difference; they sum to it."""
    sizes = {name: sum(pair.stratum == name for pair in pairs) for name in share}
    parts: dict[str, float] = {}
    for pair in pairs:
        parts[pair.cluster] = parts.get(pair.cluster, 0.0) + share[pair.stratum] / sizes[pair.stratum] * pair.delta
    return parts


def _standard_error(pairs: Sequence[Pair], share: Mapping[str, float]) -> float:
    """Cluster-robust standard error of the weighted mean difference (Miller 2024, arXiv 2411.00640)."""
    means = {name: np.mean([pair.delta for pair in pairs if pair.stratum == name]) for name in share}
    centred = [Pair(0.0, float(pair.delta - means[pair.stratum]), pair.cluster, pair.stratum) for pair in pairs]
    return math.sqrt(sum(part**2 for part in _contributions(centred, share).values()))


@dataclass(frozen=True)
class _Table:
    """Sums and counts of differences per cluster and stratum, (C, S) each, and the kind of each cluster.

    Clusters are of one kind when they touch the same strata; resampling within kinds keeps every stratum filled.
    """

    sums: np.ndarray
    counts: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[Pair], strata: Sequence[str]) -> _Table:
        rows = {cluster: row for row, cluster in enumerate(dict.fromkeys(pair.cluster for pair in pairs))}
        columns = {name: column for column, name in enumerate(strata)}
        sums, counts = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)))
        for pair in pairs:
            sums[rows[pair.cluster], columns[pair.stratum]] += pair.delta
            counts[rows[pair.cluster], columns[pair.stratum]] += 1
        touched = (counts > 0) @ (1 << np.arange(len(columns)))
        return cls(sums, counts, touched)

    @property
    def clusters(self) -> int:
        return len(self.kinds)

    def bootstrap(self, share: np.ndarray, seed: int, resamples: int) -> np.ndarray:
        """Weighted mean differences (resamples,) of clusters drawn with replacement."""
        rng = np.random.default_rng(seed)
        groups = [np.flatnonzero(self.kinds == kind) for kind in np.unique(self.kinds)]
        drawn = []
        for start in range(0, resamples, BLOCK):
            size = min(BLOCK, resamples - start)
            times = np.zeros((size, self.clusters))
            for group in groups:
                times[:, group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), size)
            drawn.append((times @ self.sums) / (times @ self.counts) @ share)
        return np.concatenate(drawn)


def sign_flip(contributions: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided p of the sum of independent contributions under random signs; exact up to 12 that are not 0."""
    values = np.array([value for value in contributions if value != 0.0])
    if not len(values):
        return 1.0
    observed = abs(values.sum()) - 1e-12  # equal sums count as extreme, rounding or not
    if len(values) <= 12:
        signs = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
        return float(np.mean(np.abs(signs @ values) >= observed))
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, resamples, BLOCK):
        signs = 1 - 2 * rng.integers(0, 2, (min(BLOCK, resamples - start), len(values)))
        extreme += int(np.sum(np.abs(signs @ values) >= observed))
    return (extreme + 1) / (resamples + 1)


def mcnemar(fixed: int, regressed: int) -> float:
    """Exact two-sided McNemar p from the discordant pairs: 2 P(Bin(n, 1/2) >= max), at most 1."""
    n = fixed + regressed
    tail = sum(math.comb(n, k) for k in range(max(fixed, regressed), n + 1))
    return min(1.0, 2 * tail / 2**n)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate; (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z95**2
    centre = p + z2 / (2 * n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z2 / n)), min(1.0, (centre + half) / (1 + z2 / n))


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for being several (Holm 1979), by the same names."""
    adjusted: dict[str, float] = {}
    worst = 0.0
    for rank, name in enumerate(sorted(ps, key=lambda key: ps[key])):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[name]))
        adjusted[name] = worst
    return adjusted
