"""Where a run stands: a pure function of its history and the clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from medtune.i18n import tr
from medtune.metrics import BEGINNINGS, History, Metric, Reader
from medtune.progress import duration
from medtune.run import METRICS, Run

State = Literal["waiting", "preparing", "running", "stalled", "stopped", "finished"]

STALL_INTERVALS = 5  # silent for so many of the longest interval between two lines: stalled
STALL_SECONDS = 60.0  # but never called stalled before
LAST_TIME = 2.0**36  # epoch seconds, of the year 4147: later ones no calendar of Python's knows
PREPARE_SECONDS = 1800.0  # the first pass over a large model may take this long without a line


@dataclass(frozen=True)
class Status:
    """One moment of a run; seconds throughout, None where it cannot be known yet."""

    run: str
    state: State
    note: str
    step: int
    total: int
    elapsed: float | None
    eta: float | None
    silent: float | None  # since the last line
    history: History

    @property
    def fraction(self) -> float:
        """Share of the steps taken, 0..1."""
        return min(1.0, self.step / self.total) if self.total else 0.0

    @property
    def over(self) -> bool:
        """No further line will come of its own."""
        return self.state in ("finished", "stopped")


def observe(run: Path, now: float) -> Status:
    """Read a run folder's metrics and say where it stands at ``now`` (epoch seconds)."""
    return status_of(str(run), History.read(run / METRICS), now, Run(run).command("train"))


class Observer:
    """Looks at one run folder again and again; what was read once is not read again."""

    def __init__(self, run: Path) -> None:
        self._run, self._metrics, self._command = run, Reader(run / METRICS), Run(run).command("train")

    def look(self) -> Status:
        """Where the run stands now."""
        return status_of(str(self._run), self._metrics.read(), time.time(), self._command)


def status_of(run: str, history: History, now: float, command: str = "make train") -> Status:
    """Say where a run with this history stands at ``now``; ``command`` is what one types to train it."""
    times = _times(history, now)
    silent = max(0.0, now - times[-1]) if times else None
    state = _state(history, times, silent)
    going = (silent or 0.0) if state in ("preparing", "running") else 0.0
    return Status(
        run=run,
        state=state,
        note=_note(state, run, history, silent, command),
        step=history.step,
        total=history.total_steps,
        elapsed=_active(history, times) + going if times else None,
        eta=_eta(history, silent or 0.0) if state == "running" else None,
        silent=silent,
        history=history,
    )


def _times(history: History, now: float) -> list[float]:
    """When each row was written: one that does not say so with the row before it, the first now."""
    times: list[float] = []
    for row in history.metrics:
        known = time_of(row)
        times.append(known if known is not None else times[-1] if times else now)
    return times


def time_of(row: Metric) -> float | None:
    """When the row was written, in epoch seconds; None where it does not say."""
    found = row.get("time")
    return found if isinstance(found, (int, float)) and 0 <= found < LAST_TIME else None


def _state(history: History, times: list[float], silent: float | None) -> State:
    if silent is None:
        return "waiting"
    if history.ended:
        return "finished"
    if history.turn == "stop":
        return "stopped"
    if silent > _patience(history, times):
        return "stalled"
    return "running" if history.of("train") else "preparing"


def _patience(history: History, times: list[float]) -> float:
    """How long a healthy run with this history may be silent, by its rhythm since it last started or resumed."""
    written: list[float] = []
    for row, moment in zip(reversed(history.metrics), reversed(times), strict=True):
        if row["kind"] != "event":
            written.append(moment)
        elif row.get("name") in BEGINNINGS:
            break  # before it lies a pause, which is no interval
    if len(written) < 2:
        return PREPARE_SECONDS
    return max(STALL_SECONDS, STALL_INTERVALS * max(later - earlier for later, earlier in pairwise(written)))


def _active(history: History, times: list[float]) -> float:
    """Seconds between the rows, less the pauses that ended with a resume."""
    later = zip(history.metrics[1:], pairwise(times), strict=True)
    return sum(end - begin for row, (begin, end) in later if row.get("name") != "resume")


def _eta(history: History, silent: float) -> float | None:
    """Remaining seconds at the recent speed, validations to come included."""
    recent = [row["it_per_sec"] for row in history.of("train")[-10:] if (row.get("it_per_sec") or 0) > 0]
    remaining = history.total_steps - history.step
    if not recent or not history.total_steps:
        return None
    seconds = remaining * len(recent) / sum(recent)
    validations = history.of("valid")[1:]  # the first is before step 1
    if validations and validations[-1]["step"]:
        interval = validations[-1]["step"] / len(validations)
        seconds += remaining / interval * (validations[-1].get("seconds") or 0.0)
    return max(0.0, seconds - silent)


def _note(state: State, run: str, history: History, silent: float | None, command: str) -> str:
    if state == "waiting":
        return tr("waiting for {file}: `{command}` writes it", file=f"{run}/{METRICS}", command=command)
    if state == "preparing":
        return tr("preparing: no training step reported yet")
    if state == "stalled":
        return tr(
            "no line for {silence}: the process has probably died; `{command}` resumes it",
            silence=duration(silent or 0.0),
            command=command,
        )
    if state == "stopped":
        return tr("stopped at step {step}; `{command}` resumes it", step=history.step, command=command)
    if state == "finished" and history.turn == "early_stop":
        return tr("finished: stopped early at step {step}, the validation loss no longer fell", step=history.step)
    if state == "finished":
        return tr("finished: all {step} steps taken", step=history.step)
    return tr("training")


def latest(history: History) -> dict[str, Any]:
    """The newest figures: the last train, valid and checkpoint rows and the best validation, empty where none."""
    last = {kind: (history.of(kind) or [{}])[-1] for kind in ("train", "valid", "checkpoint")}
    return {**last, "best": history.best or {}}
