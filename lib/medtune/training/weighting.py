"""What each record teaches: which tokens become likelier or unlikelier by how much, and what it is compared with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medtune.errors import UserError
from medtune.model.renderer import Example
from medtune.records import Record
from medtune.schemas import Objective
from medtune.training.priorities import Priorities

Encode = Callable[[Record], Example]


@dataclass(frozen=True)
class Lesson:
    """One example with the final weight of each token.

    token_weights (T,) float32: signed, of the likelihood term; preference_weight: of its preference term, 0 without;
    compared: whether the log-probability of its answer is needed; partner: index of the lesson it is compared with.
    """

    example: Example
    token_weights: np.ndarray
    desirable: bool = True
    preference_weight: float = 0.0
    compared: bool = False
    partner: int | None = None

    @property
    def supervised(self) -> int:
        """Tokens in the likelihood term."""
        return int(np.count_nonzero(self.token_weights[1:]))  # nothing predicts the first token

    @property
    def compared_tokens(self) -> np.ndarray:
        """The answer's tokens (T,) bool where it is compared, else none."""
        return self.example.answer & self.compared


@dataclass(frozen=True)
class Lessons:
    """The lessons that are drawn, then those they are compared with."""

    items: list[Lesson]
    drawn: int
    unused: int  # records the objective has no term for

    @property
    def dims(self) -> list[str]:
        """Dimension of each lesson that is drawn."""
        return [lesson.example.dim for lesson in self.items[: self.drawn]]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each lesson that is drawn, or of its longer partner."""
        sizes = [len(lesson.example.tokens) for lesson in self.items]
        partners = [lesson.partner for lesson in self.items[: self.drawn]]
        return [size if p is None else max(size, sizes[p]) for size, p in zip(sizes, partners, strict=False)]


def train(
    pairs: Sequence[tuple[Record, Example]], encode: Encode, priorities: Priorities, objective: Objective, seed: int
) -> Lessons:
    """Lessons of the training split, from its records with their examples; ``encode`` makes what else KTO needs.

    Right answers weigh their dimension's reward, marked spans its penalty (unlikelihood). What else an undesirable
    answer does is ``objective.negatives``: nothing (off, unlikelihood), a preference term of its own (auto, apo:
    APO-zero; kto), or one against the desirable answer it shares ``pair`` with (dpo, orpo).
    """
    kind = objective.negatives
    lessons, index_of, rejected = [], {}, {}
    records = [record for record, _ in pairs]
    for record, example in pairs:
        lesson = _likelihood(record, example, priorities, kind)
        penalty = priorities.penalty[record.dim] * record.weight
        reward = priorities.reward[record.dim] * record.weight
        whole = record.label == 0 and (not record.spans or kind in ("apo", "kto", "dpo", "orpo"))
        if whole and kind in ("dpo", "orpo") and record.pair:
            rejected[record.pair] = replace(lesson, compared=True)
            continue
        if whole and kind in ("auto", "apo", "kto"):
            lesson = replace(lesson, preference_weight=penalty, compared=True)
        if record.label == 1 and kind == "kto":
            lesson = replace(lesson, preference_weight=reward, compared=True)
        if lesson.supervised or lesson.preference_weight:
            index_of[record.id] = len(lessons)
            lessons.append(lesson)
    drawn = len(lessons)
    if kind in ("dpo", "orpo"):
        _pair(lessons, records, index_of, rejected, priorities, kind)
    if kind == "kto":
        _mismatch(lessons, [record for record in records if record.id in index_of], encode, seed)
    return Lessons(lessons, drawn, len(records) - drawn - (len(lessons) - drawn if kind != "kto" else 0))


def valid(pairs: Iterable[tuple[Record, Example]]) -> list[Lesson]:
    """Lessons of the validation split: right answers by plain likelihood, and every answer's log-probability."""
    lessons = []
    for record, example in pairs:
        token_weights = (example.token_weights > 0).astype(np.float32) * record.label
        lessons.append(Lesson(example, token_weights, bool(record.label), compared=True))
    return lessons


def _likelihood(record: Record, example: Example, priorities: Priorities, kind: str) -> Lesson:
    factor = np.where(example.token_weights < 0, priorities.penalty[record.dim], priorities.reward[record.dim])
    token_weights = (example.token_weights * factor * record.weight).astype(np.float32)
    if kind == "off" or (record.label == 0 and kind in ("apo", "kto", "dpo", "orpo")):
        token_weights = np.maximum(token_weights, 0) * record.label
    return Lesson(example, token_weights, bool(record.label))


def _pair(
    lessons: list[Lesson],
    records: Sequence[Record],
    index_of: dict[str, int],
    rejected: dict[str, Lesson],
    priorities: Priorities,
    kind: str,
) -> None:
    """Give each desirable answer of a pair its rejected one as partner."""
    for record in records:
        if record.label == 1 and record.pair in rejected:
            index = index_of[record.id]
            preference_weight = priorities.penalty[record.dim] * record.weight
            lessons[index] = replace(
                lessons[index], preference_weight=preference_weight, compared=True, partner=len(lessons)
            )
            lessons.append(rejected.pop(record.pair))
    if not any(lesson.partner is not None for lesson in lessons):
        raise UserError(
            f"objective.negatives: {kind} compares two answers to one question, and no two records share a pair; "
            "give them the same pair, or set negatives to auto"
        )


def _mismatch(lessons: list[Lesson], records: Sequence[Record], encode: Encode, seed: int) -> None:
    """Give each lesson its question with another record's answer, from which KTO estimates how far the policy went."""
    answers = [record.messages[-1] for record in records]
    shuffled = answers[1:] + answers[:1]
    random.Random(seed).shuffle(shuffled)
    for index, record in enumerate(records):
        other = record.model_copy(update={"messages": (*record.prompt, shuffled[index]), "spans": (), "label": 1})
        example = encode(other)
        lessons[index] = replace(lessons[index], partner=len(lessons))
        lessons.append(Lesson(example, np.zeros_like(example.token_weights), compared=True))
