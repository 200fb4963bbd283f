"""Micro-batches for the step: activations from the store or the live trunk, and the supervised rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

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


Inputs = Activations | Callable[[], Activations]  # a call where what lies below is trained too


@dataclass(frozen=True)
class MicroBatch:
    """What one call of the step takes, and its size for the log."""

    inputs: Inputs
    rows: Rows
    ids: tuple[str, ...]
    tokens: int  # without padding
    padded: int  # with padding
    supervised: int  # rows of the likelihood term


class Feed:
    """Makes micro-batches of examples by index.

    ``source`` is a store of activations, or a trunk to run live. With ``trained_below`` the trunk runs inside the
    step, so that gradients reach the vision tower.
    """

    def __init__(self, items: Sequence[Weighted], source: Store | Trunk, trained_below: bool = False) -> None:
        self.items, self._source, self._trained_below = items, source, trained_below
        self.keys = [example_key(item.example) for item in items] if isinstance(source, Store) else []
        self.reference = np.zeros(len(items), np.float32)  # of preference terms; filled by trainer.references

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

    def _read(self, chosen: list[int]) -> tuple[list[int], int, Stored | None, dict[str, np.ndarray]]:
        """The part that needs no MLX, for the other thread."""
        width = batches.padded(max(len(self.items[index].example.tokens) for index in chosen))
        stored = None
        if isinstance(self._source, Store):
            stored = self._source.batch([self.keys[index] for index in chosen], width)
        return chosen, width, stored, self._rows(chosen, width)

    def _finish(self, chosen: list[int], width: int, stored: Stored | None, rows: dict[str, np.ndarray]) -> MicroBatch:
        items = [self.items[index] for index in chosen]
        return MicroBatch(
            inputs=stored.to_mlx() if stored is not None else self._live([item.example for item in items]),
            rows=Rows(**{name: mx.array(value) for name, value in rows.items()}),
            ids=tuple(item.example.id for item in items),
            tokens=sum(len(item.example.tokens) for item in items),
            padded=width * len(items),
            supervised=sum(item.rows for item in items),
        )

    def _live(self, examples: list[Example]) -> Inputs:
        assert isinstance(self._source, Trunk)
        return partial(self._source, examples) if self._trained_below else self._source(examples).frozen()

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
