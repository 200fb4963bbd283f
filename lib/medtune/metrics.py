"""metrics.jsonl: the one channel from a training to anybody, written and read here.

A run may be killed and resumed: what counts then is decided once, in ``counting``. Reading tolerates what a living or
killed run leaves: no file yet, a last line half written, and steps that a resumed run took a second time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from medtune import files
from medtune.schemas import TrainConfig

Metric = dict[str, Any]  # one line: kind (train, valid, checkpoint or event), step, time, and what was measured
Curve = list[tuple[int, float]]  # (step, value), steps ascending

BEGINNINGS = ("start", "resume")
ENDED = ("finish", "early_stop")
ENDINGS = ("stop", *ENDED)
TURNS = (*BEGINNINGS, *ENDINGS)  # events that begin or end a stretch of training
WORDS = ("kind", "name", "text", "file", "settings")
BY_DIM = ("loss_by_dim", "gradient_share")
NO_FIGURES = frozenset((*WORDS, *BY_DIM))
LARGEST = 2**53  # of a figure: beyond it JavaScript cannot count
TOGETHER = 1000  # lines parsed as one
KNOWN_BY = 256  # bytes at the end of what was read, by which a file that only grew is known again

_DECODER = json.JSONDecoder(parse_constant=lambda name: None)  # NaN: not measured


def settings_hash(config: TrainConfig) -> str:
    """What tells a run's measurements from those of a run with other settings in the same folder."""
    return files.hash_of(config.model_dump(mode="json"))


def counting(metrics: Sequence[Metric], resumed_at: int | None = None) -> list[Metric]:
    """What counts of all that was written, in its order: the last start, and of each step the last time it was taken.

    When a run goes on from a step (``resumed_at``, or a resume among the metrics; 0: from its beginning, and nothing
    before counts), what came after that checkpoint is measured again, and the run has not ended.
    """
    kept: list[Metric] = []
    goes_on, validated = resumed_at, set[int]()
    for metric in reversed(metrics):  # from the end: each line is judged once, by what came after it
        name = metric.get("name") if metric["kind"] == "event" else None
        again = goes_on is not None and (not 0 < goes_on >= metric["step"] or name in ENDINGS)
        if metric["kind"] == "valid":
            again |= metric["step"] in validated
            validated.add(metric["step"])
        if not again:
            kept.append(metric)
        if name in BEGINNINGS:
            goes_on = metric["step"] if goes_on is None else min(goes_on, metric["step"])
    return kept[::-1]


class MetricsLog:
    """Appends to the metrics of one run that goes on from step ``resumed_at``."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        if path.exists():
            kept = counting(list(_parsed(path.read_bytes().split(b"\n"))), resumed_at)
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
        return Reader(path).read()

    @classmethod
    def parse(cls, lines: Iterable[str]) -> History:
        """The history that these lines tell."""
        return cls(tuple(counting(list(_parsed(line.encode() for line in lines)))))

    def of(self, kind: str) -> list[Metric]:
        """The metrics of one kind: train, valid, checkpoint or event."""
        return self._by_kind.get(kind, [])

    @cached_property
    def _by_kind(self) -> dict[str, list[Metric]]:
        found: dict[str, list[Metric]] = {}
        for metric in self.metrics:
            found.setdefault(metric["kind"], []).append(metric)
        return found

    def curve(self, kind: str, key: str) -> Curve:
        """(step, value) of ``key`` (``loss``, or ``loss_by_dim.vision``) where it was reported."""
        name, _, part = key.partition(".")
        found = [(metric["step"], metric.get(name)) for metric in self.of(kind)]
        if part:
            found = [(step, value.get(part) if isinstance(value, dict) else None) for step, value in found]
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


class Reader:
    """Reads a growing metrics.jsonl again and again, each of its lines once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()

    def _begin(self) -> None:
        self._state: tuple[int, int, int] | None = None
        self._offset, self._end = 0, b""  # read so far, and how that ended
        self._lines: list[Metric] = []
        self._history = History()

    def read(self) -> History:
        """The history now: the same object while the file is unchanged, an empty one while there is none."""
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            self._begin()
            return self._history
        state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if state != self._state:
            self._read_on()
            self._state = state
        return self._history

    def _read_on(self) -> None:
        """Read the whole lines that are new; all of them where a resumed run wrote the file anew."""
        with open(self._path, "rb") as file:
            file.seek(self._offset - len(self._end))
            if file.read(len(self._end)) != self._end:
                self._begin()
                file.seek(0)
            self._lines += _parsed(self._whole(file))
            file.seek(max(0, self._offset - KNOWN_BY))
            self._end = file.read(min(self._offset, KNOWN_BY))
        self._history = History(tuple(counting(self._lines)))

    def _whole(self, file: BinaryIO) -> Iterator[bytes]:
        """The lines from here on, but for one that has no end yet."""
        for line in file:
            if line.endswith(b"\n"):
                self._offset += len(line)
                yield line


def thin(curve: Curve, most: int) -> Curve:
    """At most ``most`` points, evenly chosen, the first and the last among them."""
    if len(curve) <= most:
        return curve
    return [curve[round(i * (len(curve) - 1) / (most - 1))] for i in range(most)]


def _line(metric: Metric) -> str:
    return json.dumps(metric, ensure_ascii=False, allow_nan=False)


def _parsed(lines: Iterable[bytes]) -> Iterator[Metric]:
    """The metrics on these lines; one that a killed process left half written, or nobody can plot, is passed over."""
    waiting = (line.decode("utf-8", errors="replace") for line in lines if line.strip())
    while some := list(islice(waiting, TOGETHER)):
        for metric in _decoded(some):
            if isinstance(metric, dict) and _sound(metric):
                yield metric


def _decoded(lines: list[str]) -> list[Any]:
    """What stands on these lines; read together, their keys are the same objects, which saves half the memory."""
    try:
        found = _DECODER.decode(f"[{','.join(lines)}]")
        if len(found) == len(lines):
            return found
    except (ValueError, RecursionError):  # no JSON, or numbers and brackets beyond what Python reads
        pass
    return [value for line in lines for value in _decoded([line])] if len(lines) > 1 else []


def _sound(metric: Metric) -> bool:
    """Whether it has a kind and a step, and numbers where figures belong; null is a figure that was not measured."""
    kind, step = metric.get("kind"), metric.get("step")
    if not isinstance(kind, str) or type(step) is not int or not 0 <= step < LARGEST:
        return False
    if kind == "valid" and not _number(metric.get("loss")):
        return False
    for name, value in metric.items():  # a figure first: a long run has millions of them
        if not (_number(value) and name not in NO_FIGURES) and not _fits(name, value):
            return False
    return True


def _fits(name: str, value: Any) -> bool:
    """Whether a value that is no plain figure may stand under this name."""
    if name in WORDS:
        return isinstance(value, str)
    if isinstance(value, dict):
        return name in BY_DIM and all(part is None or _number(part) for part in value.values())
    if isinstance(value, str):
        return name == "time"  # one that cannot be read is no time
    return value is None or (isinstance(value, bool) and name not in BY_DIM)


def _number(value: Any) -> bool:
    return type(value) in (float, int) and -LARGEST < value < LARGEST
