"""Predictions -> scores: what each check says of each answer, and an item's score, the mean of its checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medtune import checks
from medtune.evaluation.items import Item
from medtune.evaluation.predictions import Predictions, Side


@dataclass(frozen=True)
class Mark:
    """What one check says of one answer, 0 to 1."""

    kind: str
    value: float
    unread: bool = False  # it looked for a verdict and found none


@dataclass(frozen=True)
class Scored:
    """An answer with its marks, in the order of the item's checks."""

    answer: str
    marks: tuple[Mark, ...]
    finish: str

    @property
    def score(self) -> float:
        """Mean of the marks."""
        return sum(mark.value for mark in self.marks) / len(self.marks)

    @property
    def right(self) -> bool:
        """Whether every check is satisfied."""
        return all(mark.value >= 1 for mark in self.marks)

    def of_kind(self, kind: str) -> list[Mark]:
        """The marks of one kind of check."""
        return [mark for mark in self.marks if mark.kind == kind]


@dataclass(frozen=True)
class Judged:
    """An item with the answers of both models."""

    item: Item
    baseline: Scored
    tuned: Scored


def judge(items: Iterable[Item], store: Predictions, baseline: Side, tuned: Side) -> list[Judged]:
    """Score every item's two answers."""
    return [Judged(item, _scored(item, store, baseline), _scored(item, store, tuned)) for item in items]


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean, None of nothing."""
    return sum(values) / len(values) if values else None


def _scored(item: Item, store: Predictions, side: Side) -> Scored:
    prediction = store.of(side, item)
    said = prediction.answer
    values = [(check.kind, checks.score(check, said)) for check in item.checks]
    marks = tuple(Mark(kind, value or 0.0, unread=value is None) for kind, value in values)
    return Scored(said, marks, prediction.finish)
