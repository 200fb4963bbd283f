"""From what the watches wrote down to the figures that are compared: medians over repeats, ratios, bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medtune.bench import contenders
from medtune.bench.job import Job

WARM_UP = 0.1  # share of the steps that do not count as steady

Watched = dict[str, Any]  # what one watch wrote down


@dataclass(frozen=True)
class Figures:
    """One contender's figures; seconds count from the start of its process unless said otherwise."""

    name: str
    tokens_per_sec: float  # steady state, without padding
    step_seconds: float  # steady state
    first_step: float  # end of the first step
    first_epoch: float  # end of the first epoch, trunk pass included
    trunk_seconds: float  # the trunk pass alone
    total: float  # end of the process: all epochs, validation, saving
    peak: float  # bytes MLX held at most while training
    trunk_peak: float  # bytes MLX held at most before
    process_peak: float  # bytes of the whole process at most
    processor_seconds: float  # of all threads of the process
    val_loss: float
    repeats: int

    @classmethod
    def of(cls, name: str, runs: Sequence[Watched], tokens: Sequence[int], epochs: int) -> Figures:
        """Medians over ``runs`` of a contender; ``tokens`` of each of its steps."""
        rows = [_one(run, tokens, epochs) for run in runs]
        return cls(name, **{key: float(np.median([row[key] for row in rows])) for key in rows[0]}, repeats=len(runs))


def _one(run: Watched, tokens: Sequence[int], epochs: int) -> dict[str, float]:
    ends = run["ends"]
    first, last = max(1, int(len(ends) * WARM_UP)), len(ends) - 2  # mlx-lm validates within its last step
    seconds = ends[last] - ends[first]
    same = ("trunk_seconds", "peak", "trunk_peak", "process_peak", "processor_seconds", "val_loss")
    return {
        "tokens_per_sec": sum(tokens[first + 1 : last + 1]) / seconds,
        "step_seconds": seconds / (last - first),
        "first_step": ends[0],
        "first_epoch": ends[len(ends) // epochs - 1],
        "total": run["finished"],
        **{key: run[key] for key in same},
    }


@dataclass(frozen=True)
class Ratio:
    """One comparison: ``value`` is wanted at least, or at most, at ``bar``; None: no bar."""

    what: str
    value: float
    bar: float | None = None
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the bar is reached; always where there is none."""
        return self.bar is None or (self.value <= self.bar if self.at_most else self.value >= self.bar)


def ratios(found: Mapping[str, Figures], losses: Mapping[str, Sequence[float]]) -> list[Ratio]:
    """Ours against theirs, as far as both have run; ``losses`` of each contender's steps."""
    made: list[Ratio] = []
    theirs, ours = found.get("vlm"), found.get("cached")
    if theirs and ours:
        made += [
            Ratio("tokens per second, steady state", ours.tokens_per_sec / theirs.tokens_per_sec, 3.0),
            Ratio("all epochs, with start-up and trunk pass", theirs.total / ours.total, 2.2),
            Ratio("first epoch, with start-up and trunk pass", theirs.first_epoch / ours.first_epoch, 1.0),
            Ratio("peak memory of training", ours.peak / theirs.peak, 0.5, at_most=True),
            Ratio(
                "largest relative difference of a step's loss",
                float(np.max(np.abs(np.divide(losses["cached"], losses["vlm"]) - 1))),  # no number is the worst
                1e-4,
                at_most=True,
            ),
        ]
    if theirs and "plain" in found:
        made.append(Ratio("without cache: tokens per second", found["plain"].tokens_per_sec / theirs.tokens_per_sec))
    if theirs and "again" in found:
        made.append(Ratio("cache filled: all epochs, with start-up", theirs.total / found["again"].total))
    if "lm" in found and "cached_text" in found:
        text, others = found["cached_text"], found["lm"]
        made.append(
            Ratio("text rows: tokens per second, over mlx_lm.lora", text.tokens_per_sec / others.tokens_per_sec)
        )
        made.append(Ratio("text rows: all epochs, over mlx_lm.lora", others.total / text.total))
    return made


def collect(job: Job, runs: Mapping[str, Sequence[Watched]]) -> tuple[dict[str, Figures], list[Ratio]]:
    """Figures and ratios of all contenders that ran; needs MLX for the order of the batches."""
    found = {}
    for name, rows in runs.items():
        contender = contenders.get(name)
        tokens = job.tokens(contender.KIND, job.order(contender.KIND))
        if name == "lm":  # takes the batches in an order of its own: each counts as the mean
            tokens = [round(sum(tokens) / len(tokens))] * len(tokens)
        found[name] = Figures.of(contender.NAME, rows, tokens, job.work.epochs)
    return found, ratios(found, {name: rows[0]["losses"] for name, rows in runs.items()})


def to_json(found: Mapping[str, Figures], compared: Sequence[Ratio], runs: Mapping[str, Any]) -> dict[str, Any]:
    """All of it for bench.json."""
    return {
        "contenders": {name: asdict(figures) for name, figures in found.items()},
        "ratios": [asdict(ratio) | {"reached": ratio.reached} for ratio in compared],
        "runs": runs,
    }
