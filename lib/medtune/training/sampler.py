"""Which examples each optimizer step sees: drawn by priority, grouped by length, a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

WINDOW = 64  # batches that are sorted by length together

Order = list[list[int]]  # per step the indices of its examples


def order(
    dims: Sequence[str], lengths: Sequence[int], draw: Mapping[str, float], steps: int, size: int, seed: int
) -> Order:
    """Indices of the examples of each step: (steps, size).

    Dimensions are drawn in exact proportion ``draw`` (not by chance), each passing through all its examples in a
    new random order before one repeats. Within a window of batches, examples of like length are put together and
    the batches shuffled.
    """
    rng = random.Random(seed)
    cycles = {dim: _cycle([i for i, d in enumerate(dims) if d == dim], random.Random(f"{seed}-{dim}")) for dim in draw}
    drawn = [next(cycles[dim]) for dim in _proportional(draw, steps * size)]
    batches: Order = []
    for start in range(0, len(drawn), WINDOW * size):
        window = drawn[start : start + WINDOW * size]
        rng.shuffle(window)
        window.sort(key=lambda index: lengths[index])
        cut = [window[i : i + size] for i in range(0, len(window), size)]
        rng.shuffle(cut)
        batches += cut
    return batches


def _cycle(indices: list[int], rng: random.Random) -> Iterator[int]:
    while True:
        rng.shuffle(indices)
        yield from indices


def _proportional(draw: Mapping[str, float], count: int) -> Iterator[str]:
    """A sequence in which every prefix holds each dimension in proportion, as near as whole numbers allow."""
    owed = dict.fromkeys(draw, 0.0)
    for _ in range(count):
        for dim, share in draw.items():
            owed[dim] += share
        dim = max(owed, key=lambda d: owed[d])
        owed[dim] -= 1
        yield dim
