"""Micro-batches for the step: activations from the store or the live trunk, and the supervised rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from medtune import batches
from medtune.chat import Example
from medtune.objective import Rows
from medtune.priorities import Priorities
from medtune.records import DIMENSIONS, Record
from medtune.trunk import Activations, Store, Stored, Trunk, example_key

ROW_BUCKET = 64  # the number of supervised rows is padded to a multiple: few shapes to compile


@dataclass(frozen=True)
class Weighted:
    """One example with the final weight of each token.

    weights (T,) float32 signed; penalty: of its preference term, 0 without; reference: log-probability of the answer
    under the base model, needed where there is a penalty.
    """

    example: Example
    weights: np.ndarray
    penalty: float = 0.0

    @property
    def rows(self) -> int:
        """Tokens that count in the likelihood term."""
        return 0 if self.penalty else int(np.count_nonzero(self.weights))


def weigh(record: Record, example: Example, priorities: Priorities) -> Weighted:
    """Right tokens weigh +reward, marked spans -penalty; a wrong answer without spans gets one preference term."""
    reward, penalty = priorities.reward[record.dim] * record.weight, priorities.penalty[record.dim] * record.weight
    if record.label == 0 and not record.spans:
        return Weighted(example, example.weights, penalty=penalty)
    factor = np.where(example.weights < 0, penalty, reward).astype(np.float32)
    return Weighted(example, example.weights * factor)


@dataclass(frozen=True)
class MicroBatch:
    """What one call of the step takes, and its size for the log."""

    activations: Activations
    rows: Rows
    ids: tuple[str, ...]
    tokens: int  # without padding
    padded: int  # with padding
    supervised: int  # rows of the likelihood term


class Feed:
    """Makes micro-batches of examples by index, from a store where there is one, else by running the trunk live."""

    def __init__(self, items: Sequence[Weighted], trunk: Trunk | None, store: Store | None) -> None:
        self.items, self._trunk, self._store = items, trunk, store
        self.keys = [example_key(item.example) for item in items] if store else []
        self.reference = np.zeros(len(items), np.float32)  # filled once by the trainer, see `references`

    def stream(self, plan: Iterable[Sequence[int]]) -> Iterator[MicroBatch]:
        """The micro-batches of ``plan``, each prepared on another thread while the one before is computed."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            waiting = None
            for chosen in plan:
                coming = pool.submit(self._read, list(chosen))
                if waiting is not None:
                    yield self._finish(*waiting.result())
                waiting = coming
            if waiting is not None:
                yield self._finish(*waiting.result())

    def _read(self, chosen: list[int]) -> tuple[list[int], Stored | None, dict[str, np.ndarray]]:
        """The part that needs no MLX, for the other thread."""
        width = batches.padded(max(len(self.items[index].example.tokens) for index in chosen))
        stored = self._store.batch([self.keys[index] for index in chosen], width) if self._store else None
        return chosen, stored, self._rows(chosen, width)

    def _finish(self, chosen: list[int], stored: Stored | None, rows: dict[str, np.ndarray]) -> MicroBatch:
        items = [self.items[index] for index in chosen]
        if stored is not None:
            activations = stored.to_mlx()
        else:
            assert self._trunk is not None
            activations = self._trunk([item.example for item in items])
        return MicroBatch(
            activations=activations,
            rows=Rows(**{name: mx.array(value) for name, value in rows.items()}),
            ids=tuple(item.example.id for item in items),
            tokens=sum(len(item.example.tokens) for item in items),
            padded=activations.h.shape[0] * activations.h.shape[1],
            supervised=sum(item.rows for item in items),
        )

    def _rows(self, chosen: Sequence[int], width: int) -> dict[str, np.ndarray]:
        columns: dict[str, list[np.ndarray]] = {
            name: [] for name in ("at", "targets", "weights", "sequence", "dim", "preference")
        }
        for row, index in enumerate(chosen):
            item = self.items[index]
            at = np.flatnonzero(item.weights)
            at = at[at > 0]  # nothing predicts the first token
            columns["at"].append(row * width + at - 1)
            columns["targets"].append(item.example.tokens[at])
            columns["weights"].append(item.weights[at])
            columns["sequence"].append(np.full(len(at), row))
            columns["dim"].append(np.full(len(at), DIMENSIONS.index(item.example.dim)))  # type: ignore[arg-type]
            columns["preference"].append(np.full(len(at), float(item.penalty > 0)))
        count = sum(len(part) for part in columns["at"])
        room = batches.padded(max(count, 1), ROW_BUCKET)
        kinds = {"weights": np.float32, "preference": np.float32}
        rows = {
            name: np.concatenate([*parts, np.zeros(room - count)]).astype(kinds.get(name, np.int32))
            for name, parts in columns.items()
        }
        rows["penalty"] = np.array([self.items[index].penalty for index in chosen], np.float32)
        rows["reference"] = self.reference[list(chosen)]
        return rows
