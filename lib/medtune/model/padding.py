"""Sizes that trainer, generation and planner share: how examples are put together and how much is computed at a time.

Few shapes and little padding; no MLX, so that the planner counts with the numbers the trainer works with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

BUCKET = 32  # lengths are padded to a multiple
ROW_BUCKET = 64  # so is the number of supervised rows: few shapes to compile
HEAD_ROWS = 512  # rows whose logits are in memory at a time
TRUNK_TOKENS = 4096  # of one batch of the trunk pass
STREAM_LAYERS = 4  # decoder layers of the trunk in memory at a time where all of them do not fit
ATTENTION_BLOCK = 128  # queries whose scores a CPU has in memory, and in the cache, at a time


def padded(length: int, bucket: int = BUCKET) -> int:
    """The smallest multiple of ``bucket`` that holds ``length``."""
    return -(-length // bucket) * bucket


def by_length(lengths: Sequence[int], size: int, chosen: Iterable[int] | None = None) -> list[list[int]]:
    """Every chosen index (default: all) once, in batches of like length; the longest first: it needs most memory."""
    order = sorted(range(len(lengths)) if chosen is None else chosen, key=lambda index: -lengths[index])
    return [order[i : i + size] for i in range(0, len(order), size)]


def token_matrix(rows: Sequence[np.ndarray], pad: int = 0) -> np.ndarray:
    """Token rows, each (T,) int32, as one matrix (B, T), right-padded to the bucket."""
    matrix = np.full((len(rows), padded(max(map(len, rows)))), pad, np.int32)
    for place, row in zip(matrix, rows, strict=True):
        place[: len(row)] = row
    return matrix
