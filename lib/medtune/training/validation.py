"""How well a model does on what it does not learn from: losses and reward margin over the whole validation set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from medtune.model import adapters
from medtune.model.arrays import numbers
from medtune.model.padding import by_length
from medtune.records import DIMENSIONS
from medtune.schemas import TrainConfig
from medtune.training.dataloader import DataLoader
from medtune.training.step import Step

LEAST_BATCH = 4  # nothing is kept for a backward pass


@dataclass(frozen=True)
class Losses:
    """Mean -log p per desirable token, over everything and per dimension that has any."""

    loss: float
    by_dim: dict[str, float]
    rows: int

    @classmethod
    def of(cls, nll: Sequence[float], rows: Sequence[float]) -> Losses:
        """Losses from sums per dimension."""
        by_dim = {d: n / r for d, n, r in zip(DIMENSIONS, nll, rows, strict=True) if r}
        return cls(sum(nll) / max(sum(rows), 1), by_dim, int(sum(rows)))


def references(step: Step, loader: DataLoader, mine: Iterable[int], batch_size: int) -> None:
    """Fill in the log-probabilities of the compared answers among ``mine`` under the base model: adapters off."""
    chosen = [index for index in mine if loader.lessons[index].compared]
    order = by_length([len(lesson.example.tokens) for lesson in loader.lessons], batch_size, chosen)
    with adapters.scaled(step.model, 0.0):
        for part, batch in zip(order, loader.stream(order), strict=True):
            loader.reference[part] = numbers(step.sequence_log_probs(batch))[: len(part)]


def validate(step: Step, loader: DataLoader, config: TrainConfig) -> tuple[Losses, float | None]:
    """Losses and mean reward margin, deterministic: all of the validation set in one fixed order, no dropout.

    Each machine takes its share. The margin is beta * (mean rho of desirable answers - mean rho of undesirable ones),
    None without the latter.
    """
    lengths = [len(lesson.example.tokens) for lesson in loader.lessons]
    sums = [mx.zeros(len(DIMENSIONS)), mx.zeros(len(DIMENSIONS)), mx.zeros(4)]
    mine = step.cluster.share(range(len(lengths)))
    for batch in loader.stream(by_length(lengths, max(config.batch_size, LEAST_BATCH), mine)):
        terms = step.evaluate(batch)
        sums = [total + part for total, part in zip(sums, (terms.nll, terms.rows, terms.margin), strict=True)]
        mx.eval(sums)
    sums = step.cluster.sum(sums)
    right, right_count, wrong, wrong_count = numbers(sums[2])
    margin = None
    if right_count and wrong_count:
        margin = config.objective.beta * (right / right_count - wrong / wrong_count)
    return Losses.of(numbers(sums[0]), numbers(sums[1])), margin
