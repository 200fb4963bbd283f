"""Micro-batches for the step: activations from the store or the live trunk, and the supervised rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from medtune.model.architecture import Activations
from medtune.model.padding import ROW_BUCKET, padded
from medtune.model.renderer import Example
from medtune.records import DIMENSIONS
from medtune.training.activations import Store, Stored
from medtune.training.loss import Rows
from medtune.training.trunk import Trunk
from medtune.training.weighting import Lesson

Inputs = Activations | Callable[[], Activations]  # a call where what lies below is trained too


class Size(NamedTuple):
    """What batches hold: tokens without and with padding, rows of the likelihood term, lessons drawn.

    A drawn lesson may bring a partner it is compared with, which is not counted as drawn.
    """

    tokens: int
    padded: int
    supervised: int
    drawn: int

    @classmethod
    def sum(cls, sizes: Iterable[Size]) -> Size:
        """All of them together."""
        return cls(*(sum(column) for column in zip(*sizes, strict=True)))


@dataclass(frozen=True)
class MicroBatch:
    """What one call of the step takes."""

    inputs: Inputs
    rows: Rows
    ids: tuple[str, ...]
    size: Size


class DataLoader:
    """Makes micro-batches of lessons by index, each followed by the lessons it is compared with.

    ``source`` is a store of activations, or a trunk to run live. With ``trained_below`` the trunk runs inside the
    step, so that gradients reach the vision tower.
    """

    def __init__(self, lessons: Sequence[Lesson], source: Store | Trunk, trained_below: bool = False) -> None:
        self.lessons, self._source, self._trained_below = lessons, source, trained_below
        self.keys = [lesson.example.key for lesson in lessons] if isinstance(source, Store) else []
        self.reference = np.zeros(
            len(lessons), np.float32
        )  # log p of answers under the base; filled by validation.references

    def stream(self, plan: Iterable[Sequence[int]]) -> Iterator[MicroBatch]:
        """The micro-batches of ``plan``, each prepared on another thread while the one before is computed."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            waiting = None
            for chosen in plan:
                coming = pool.submit(self._read, list(chosen))
                if waiting is not None:
                    yield self._finish(waiting.result())
                waiting = coming
            if waiting is not None:
                yield self._finish(waiting.result())

    def size(self, drawn: Sequence[int]) -> Size:
        """What the micro-batch of these lessons holds, without making it."""
        chosen, width = self._with_partners(drawn)
        lessons = [self.lessons[index] for index in chosen]
        tokens, supervised = (sum(len(x.example.tokens) for x in lessons), sum(x.supervised for x in lessons))
        return Size(tokens, width * len(lessons), supervised, len(drawn))

    def _with_partners(self, drawn: Sequence[int]) -> tuple[list[int], int]:
        """The lessons of a micro-batch and the length they are padded to."""
        partners = (self.lessons[index].partner for index in drawn)
        chosen = [*drawn, *(partner for partner in partners if partner is not None)]
        return chosen, padded(max(len(self.lessons[index].example.tokens) for index in chosen))

    def _read(self, drawn: list[int]) -> _Read:
        """The part that needs no MLX, for the other thread."""
        chosen, width = self._with_partners(drawn)
        stored = None
        if isinstance(self._source, Store):
            stored = self._source.batch([self.keys[index] for index in chosen], width)
        return _Read(chosen, len(drawn), width, stored, self._rows(chosen, len(drawn), width))

    def _finish(self, read: _Read) -> MicroBatch:
        lessons = [self.lessons[index] for index in read.chosen]
        return MicroBatch(
            inputs=read.stored.to_mlx() if read.stored else self._live([lesson.example for lesson in lessons]),
            rows=Rows(**{name: mx.array(value) for name, value in read.rows.items()}),
            ids=tuple(lesson.example.id for lesson in lessons),
            size=self.size(read.chosen[: read.drawn]),
        )

    def _live(self, examples: list[Example]) -> Inputs:
        assert isinstance(self._source, Trunk)
        return partial(self._source, examples) if self._trained_below else self._source(examples).frozen()

    def _rows(self, chosen: Sequence[int], drawn: int, width: int) -> dict[str, np.ndarray]:
        """The fields of ``Rows``, rows padded to the bucket with weight 0."""
        columns: dict[str, list[np.ndarray]] = {name: [] for name in _ROW_TYPES}
        for row, index in enumerate(chosen):
            lesson = self.lessons[index]
            at = np.flatnonzero((lesson.token_weights != 0) | lesson.compared_tokens)
            at = at[at > 0]  # nothing predicts the first token
            columns["at"].append(row * width + at - 1)
            columns["targets"].append(lesson.example.tokens[at])
            columns["token_weights"].append(lesson.token_weights[at])
            columns["sequence"].append(np.full(len(at), row))
            columns["dim"].append(np.full(len(at), DIMENSIONS.index(lesson.example.dim)))  # type: ignore[arg-type]
            columns["compared"].append(lesson.compared_tokens[at])
        count = sum(len(part) for part in columns["at"])
        room = padded(max(count, 1), ROW_BUCKET) - count
        rows = {n: np.concatenate([*p, np.zeros(room)]).astype(_ROW_TYPES[n]) for n, p in columns.items()}
        lessons = [self.lessons[index] for index in chosen]
        partners = iter(range(drawn, len(chosen)))
        rows["preference_weight"] = np.array([lesson.preference_weight for lesson in lessons], np.float32)
        rows["desirable"] = np.array([lesson.desirable for lesson in lessons], np.float32)
        rows["partner"] = np.array(
            [next(partners) if x.partner is not None else i for i, x in enumerate(lessons)], np.int32
        )
        rows["reference"] = self.reference[list(chosen)]
        return rows


_ROW_TYPES = {
    "at": np.int32,
    "targets": np.int32,
    "token_weights": np.float32,
    "sequence": np.int32,
    "dim": np.int32,
    "compared": np.float32,
}


class _Read(NamedTuple):
    chosen: list[int]
    drawn: int
    width: int
    stored: Stored | None
    rows: dict[str, np.ndarray]
