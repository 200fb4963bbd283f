"""What an evaluation proves: for each dimension is the tuned model better, and how small a difference shows?"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

from medtune.files import Json
from medtune.records import DIMENSIONS
from medtune.report.facts import Facts

Finding = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Effect:
    """One dimension's paired comparison, baseline against tuned, scores 0..1."""

    name: str
    n: int
    baseline: float
    tuned: float
    delta: float
    low: float | None  # of the 95 percent interval of delta
    high: float | None
    p: float | None  # of no difference, corrected for the number of dimensions where there are several
    detectable: float | None  # the smallest true difference these items show in four of five repetitions

    @property
    def finding(self) -> Finding:
        """Better or worse only where the whole interval lies on one side of zero."""
        if self.low is not None and self.low > 0:
            return "better"
        if self.high is not None and self.high < 0:
            return "worse"
        return "undecided"

    @property
    def needed(self) -> int | None:
        """About how many items would prove a difference as large as the one found; None where none was found."""
        if self.detectable is None or not self.delta:
            return None
        return ceil(self.n * (self.detectable / self.delta) ** 2)


def effects(facts: Facts) -> list[Effect]:
    """The dimensions that were measured, in order of priority; none where the evaluation is missing or stale."""
    measured = facts.trusted("evaluation.dimensions") or {}
    return [_effect(name, measured[name]) for name in DIMENSIONS if measured.get(name, {}).get("n")]


def overall(facts: Facts) -> Effect | None:
    """The mean over the dimensions, weighted by the priorities."""
    measured = facts.trusted("evaluation.overall")
    return _effect("overall", measured) if measured and measured.get("n") else None


def _effect(name: str, values: Json) -> Effect:
    low, high = values.get("ci_low"), values.get("ci_high")
    p = values.get("p_holm", values.get("p"))
    scores = values["baseline"], values["tuned"], values["delta"]
    return Effect(name, values["n"], *scores, low, high, p, values.get("detectable"))
