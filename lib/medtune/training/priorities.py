"""The three priorities as numbers: how often a dimension is drawn, what its tokens weigh, what share that makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medtune.records import DIMENSIONS
from medtune.schemas import Objective

Shares = dict[str, float]


@dataclass(frozen=True)
class Priorities:
    """Per dimension: probability of a draw and the normalised weights of right and wrong answers.

    Rewards are divided by their mean over the draws, so that the mean weight over the data set is 1 and the
    learning rate means the same whatever the rewards are; penalties by the same number, so their ratio is kept.
    """

    draw: Shares
    reward: Shares
    penalty: Shares
    nominal: Shares  # the configured weights, normalised

    @property
    def effective(self) -> Shares:
        """Share of the loss each dimension has when all answers are equally wrong: draw * reward, normalised."""
        return normalised({d: self.draw[d] * self.reward[d] for d in self.draw})


def priorities(objective: Objective, counts: Mapping[str, int]) -> Priorities:
    """Priorities over the dimensions that have records; the weight of one without records goes to the others.

    ``share: examples`` draws by the configured weights; ``share: loss`` draws by weight / reward, which makes the
    configured weights the shares of the loss.
    """
    present = {d: objective.priorities[d] for d in DIMENSIONS if counts.get(d, 0) and objective.priorities[d].weight}
    nominal = normalised({d: p.weight for d, p in present.items()})
    draw = normalised({d: p.weight / (p.reward if objective.share == "loss" else 1.0) for d, p in present.items()})
    mean = sum(draw[d] * p.reward for d, p in present.items())
    return Priorities(
        draw=draw,
        reward={d: p.reward / mean for d, p in present.items()},
        penalty={d: p.penalty / mean for d, p in present.items()},
        nominal=nominal,
    )


def normalised(shares: Mapping[str, float]) -> Shares:
    """The same proportions with sum 1."""
    total = sum(shares.values())
    return {key: value / total for key, value in shares.items()}
