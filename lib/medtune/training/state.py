"""The state of a run: the counters that decide its next step, its reports and its receipt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

import mlx.core as mx

from medtune.model.arrays import numbers, scalar
from medtune.records import DIMENSIONS
from medtune.schemas import TrainConfig
from medtune.training.dataloader import Size
from medtune.training.step import Outcome
from medtune.training.validation import Losses


class Window(NamedTuple):
    """What was measured since the report before; speeds without padding, shares 0 to 1."""

    losses: Losses
    objective: float
    grad_norm: float
    tokens_per_sec: float
    it_per_sec: float
    padding: float


@dataclass
class RunState:
    """The counters of a run."""

    fingerprint: str  # of config and data set: a state of another run is refused
    step: int = 0
    micro: int = 0  # micro-batches a step is cut into; 0: as configured
    best: float | None = None  # lowest validation loss
    best_step: int = 0
    kept: str = ""  # sha256 of the adapters of the best
    waited: int = 0  # validations since the best
    seconds: float = 0.0  # of training, without set-up
    totals: dict[str, float] = field(default_factory=dict)  # tokens, supervised tokens, padding so far
    window: dict[str, Any] = field(default_factory=dict)  # sums since the last report
    first: dict[str, Any] = field(default_factory=dict)  # first measured losses
    last: dict[str, Any] = field(default_factory=dict)  # latest measured losses
    best_by_dim: dict[str, float] = field(default_factory=dict)
    share: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # loss per dimension, summed
    gradient: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # norms per dimension, summed
    saved: list[dict[str, Any]] = field(default_factory=list)  # numbered checkpoints

    def took(self, step: int, outcome: Outcome, whole: Size, seconds: float) -> None:
        """Count a step that was taken."""
        self.step, self.seconds = step, self.seconds + seconds
        for name, values in (("nll", outcome.terms.nll), ("rows", outcome.terms.rows)):
            self.window[name] = _sum(self.window.get(name, [0.0] * len(DIMENSIONS)), numbers(values))
        self.share = _sum(self.share, numbers(outcome.terms.loss))
        counts = {
            "steps": 1.0,
            "objective": scalar(outcome.loss),
            "grad_norm": scalar(outcome.grad_norm),
            "tokens": whole.tokens,
            "padded": whole.padded,
            "supervised_tokens": whole.supervised,
        }
        for name, value in counts.items():
            self.window[name] = self.window.get(name, 0.0) + value
            self.totals[name] = self.totals.get(name, 0.0) + value

    @property
    def unreported(self) -> bool:
        """Whether steps were taken since the last report."""
        return "steps" in self.window

    def report(self) -> Window:
        """The window as it ends here; the next one begins."""
        sums, seconds = self.window, max(self.seconds - self.window.get("since", 0.0), 1e-9)
        window = Window(
            losses=Losses.of(sums["nll"], sums["rows"]),
            objective=sums["objective"] / sums["steps"],
            grad_norm=sums["grad_norm"] / sums["steps"],
            tokens_per_sec=sums["tokens"] / seconds,
            it_per_sec=sums["steps"] / seconds,
            padding=1 - sums["tokens"] / sums["padded"],
        )
        self.first.setdefault("train_loss", window.losses.loss)
        self.last["train_loss"] = window.losses.loss
        self.window = {"since": self.seconds}
        return window

    def validated(self, losses: Losses, margin: float | None, gradient_norms: Sequence[float]) -> bool:
        """Count a validation; whether it is the best so far."""
        if gradient_norms:
            self.gradient = _sum(self.gradient, gradient_norms)
        self.first.setdefault("val_loss", losses.loss)
        self.first.setdefault("val_by_dim", losses.by_dim)
        self.last |= {"val_loss": losses.loss, "reward_margin": margin}
        if not (losses.loss < (inf if self.best is None else self.best)):
            self.waited += 1
            return False
        self.best, self.best_step, self.waited, self.best_by_dim = losses.loss, self.step, 0, losses.by_dim
        return True

    def forget_best(self) -> None:
        """The adapters of the best validation are not there: the next one is the best so far."""
        self.best, self.best_step, self.waited, self.kept = None, 0, 0, ""

    def results(self, config: TrainConfig, stopped: str) -> dict[str, Any]:
        """The part of training.json's results that the loop knows."""
        by_loss = config.select.by == "val_loss"
        return {
            "steps": self.step,
            "stopped": stopped,
            "train_loss": {"first": self.first["train_loss"], "last": self.last["train_loss"]},
            "val_loss": {
                "first": self.first["val_loss"],
                "best": self.best,
                "best_step": self.best_step,
                "last": self.last["val_loss"],
            },
            "val_loss_by_dim": {"first": self.first["val_by_dim"], "best": self.best_by_dim},
            "measured_share": shares(self.share),
            "gradient_share": shares(self.gradient),
            "reward_margin": self.last["reward_margin"],
            "tokens": int(self.totals["tokens"]),
            "supervised_tokens": int(self.totals["supervised_tokens"]),
            "tokens_per_sec": round(self.totals["tokens"] / self.seconds, 1),
            "it_per_sec": round(self.step / self.seconds, 3),
            "peak_memory_gb": peak_memory_gb(),
            "train_seconds": round(self.seconds, 2),
            "checkpoints": self.saved,
            "selected": {
                "step": self.best_step if by_loss else self.step,
                "by": config.select.by,
                "val_loss": self.best if by_loss else self.last["val_loss"],
            },
        }


def shares(sums: Sequence[float]) -> dict[str, float]:
    """Sums per dimension as shares of their total, without the dimensions that have none."""
    total = sum(sums)
    return {dim: value / total for dim, value in zip(DIMENSIONS, sums, strict=True) if value}


def peak_memory_gb() -> float:
    """Memory MLX has held at most, GiB."""
    return round(mx.get_peak_memory() / 2**30, 3)


def _sum(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]
