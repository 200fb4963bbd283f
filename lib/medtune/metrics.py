"""metrics.jsonl: the one channel from a training to anybody, written and read here.

A run may be killed and resumed: what counts then is decided once, in ``surviving``. Reading tolerates what a living or
killed run leaves: no file yet, a last line half written, and steps that a resumed run took a second time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune import files
from medtune.schemas import TrainConfig

Metric = dict[str, Any]  # one line: kind (train, valid, checkpoint or event), step, time, and what was measured
Curve = list[tuple[int, float]]  # (step, value), steps ascending

BEGINNINGS = ("start", "resume")
ENDED = ("finish", "early_stop")
ENDINGS = ("stop", *ENDED)
TURNS = (*BEGINNINGS, *ENDINGS)  # events that begin or end a stretch of training


def settings_hash(config: TrainConfig) -> str:
    """What tells a run's measurements from those of a run with other settings in the same folder."""
    return files.hash_of(config.model_dump(mode="json"))


def surviving(metrics: Iterable[Metric], step: int) -> list[Metric]:
    """What still counts when a run goes on from ``step`` (0: from its beginning, and nothing counts).

    What came after the last checkpoint is measured again, and the run has not ended.
    """
    return [m for m in metrics if 0 < step >= m["step"] and not (m["kind"] == "event" and m.get("name") in ENDINGS)]


class MetricsLog:
    """Appends to the metrics of one run that goes on from step ``resumed_at``."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        if path.exists():
            kept = surviving(_parsed(path.read_text(encoding="utf-8", errors="replace").splitlines()), resumed_at)
            files.write_jsonl(path, [_line(metric) for metric in kept])
        self._path = path
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for the whole run

    def close(self) -> None:
        """No more will be added."""
        with files.named(self._path):  # what did not fit before does not fit now
            self._file.close()

    def add(self, kind: str, step: int, **values: Any) -> None:
        """Append one line at once: the monitor reads it while we run."""
        with files.named(self._path):
            self._file.write(_line({"kind": kind, "step": step, "time": round(time.time(), 3), **values}) + "\n")
            self._file.flush()


@dataclass(frozen=True)
class History:
    """The metrics of one run that count, in the order they were written."""

    metrics: tuple[Metric, ...] = ()

    @classmethod
    def read(cls, path: Path) -> History:
        """Read ``path``; a missing file is an empty history."""
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return cls()
        return cls.parse(text[: text.rfind("\n") + 1].splitlines())

    @classmethod
    def parse(cls, lines: Iterable[str]) -> History:
        """Keep what counts: of the last start, and of each step the last time it was taken."""
        metrics: list[Metric] = []
        for metric in _parsed(lines):
            if metric["kind"] == "event" and metric.get("name") in BEGINNINGS:
                metrics = surviving(metrics, metric["step"])
            elif metric["kind"] == "valid":
                metrics = [old for old in metrics if (old["kind"], old["step"]) != ("valid", metric["step"])]
            metrics.append(metric)
        return cls(tuple(metrics))

    def of(self, kind: str) -> list[Metric]:
        """The metrics of one kind: train, valid, checkpoint or event."""
        return [metric for metric in self.metrics if metric["kind"] == kind]

    def curve(self, kind: str, key: str) -> Curve:
        """(step, value) of ``key`` (``loss``, or ``loss_by_dim.vision``) where it was reported."""
        found = [(metric["step"], _lookup(metric, key)) for metric in self.of(kind)]
        return [(step, float(value)) for step, value in found if value is not None]

    @property
    def total_steps(self) -> int:
        """How many steps the run set out to take; 0 when it has not said so."""
        return next((metric["total_steps"] for metric in reversed(self.metrics) if metric.get("total_steps")), 0)

    @property
    def step(self) -> int:
        """The last step reported."""
        return max((metric["step"] for metric in self.metrics), default=0)

    @property
    def turn(self) -> str:
        """The last event that began or ended a stretch of training, or an empty string."""
        return next((event["name"] for event in reversed(self.of("event")) if event.get("name") in TURNS), "")

    @property
    def ended(self) -> bool:
        """Whether the training came to its end, by its steps or by its patience."""
        return self.turn in ENDED

    @property
    def best(self) -> Metric | None:
        """The validation with the lowest loss."""
        return min(self.of("valid"), key=lambda metric: metric["loss"], default=None)


def _line(metric: Metric) -> str:
    return json.dumps(metric, ensure_ascii=False, allow_nan=False)


def _parsed(lines: Iterable[str]) -> Iterator[Metric]:
    """The metrics on these lines; one that a killed process left half written is passed over."""
    for line in lines:
        try:
            metric = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(metric, dict) and "kind" in metric and "step" in metric:
            yield metric


def _lookup(metric: Metric, key: str) -> Any:
    value: Any = metric
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
