"""Where a run stands: a pure function of its history and the clock."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from medtune.i18n import tr
from medtune.metrics import History, Metric
from medtune.progress import duration
from medtune.run import METRICS, Run

State = Literal["waiting", "preparing", "running", "stalled", "stopped", "finished"]

STALL_INTERVALS = 5  # silent for so many of the longest interval between two lines: stalled
STALL_SECONDS = 60.0  # but never called stalled before
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


def status_of(run: str, history: History, now: float, command: str = "make train") -> Status:
    """Say where a run with this history stands at ``now``; ``command`` is what one types to train it."""
    timed = _timed(history, now)
    rows = timed.metrics
    silent = max(0.0, now - rows[-1]["time"]) if rows else None
    state = _state(timed, silent)
    going = (silent or 0.0) if state in ("preparing", "running") else 0.0
    return Status(
        run=run,
        state=state,
        note=_note(state, run, history, silent, command),
        step=history.step,
        total=history.total_steps,
        elapsed=_active(rows) + going if rows else None,
        eta=_eta(timed, now) if state == "running" else None,
        silent=silent,
        history=history,
    )


def _timed(history: History, now: float) -> History:
    """The history with a time in every row: one without counts as written with the row before it, the first now."""
    rows: list[Metric] = []
    for row in history.metrics:
        known = time_of(row)
        rows.append({**row, "time": known if known is not None else rows[-1]["time"] if rows else now})
    return History(tuple(rows))


def time_of(row: Metric) -> float | None:
    """When the row was written, in epoch seconds; None where it does not say."""
    found = row.get("time")
    return found if isinstance(found, (int, float)) else None


def _state(history: History, silent: float | None) -> State:
    if silent is None:
        return "waiting"
    if history.ended:
        return "finished"
    if history.turn == "stop":
        return "stopped"
    if silent > _patience(history):
        return "stalled"
    return "running" if history.of("train") else "preparing"


def _patience(history: History) -> float:
    """How long a healthy run with this history may be silent."""
    times = [row["time"] for row in _stretch(history) if row["kind"] != "event"]
    if len(times) < 2:
        return PREPARE_SECONDS
    return max(STALL_SECONDS, STALL_INTERVALS * max(b - a for a, b in pairwise(times)))


def _active(rows: tuple[Metric, ...]) -> float:
    """Seconds between the rows, less the pauses that ended with a resume."""
    return sum(b["time"] - a["time"] for a, b in pairwise(rows) if b.get("name") != "resume")


def _stretch(history: History) -> list[Metric]:
    """The rows since training last started or resumed: before it lies a pause, which is no interval."""
    rows = list(history.metrics)
    begins = [i for i, row in enumerate(rows) if row["kind"] == "event" and row.get("name") in ("start", "resume")]
    return rows[begins[-1] :] if begins else rows


def _eta(history: History, now: float) -> float | None:
    """Remaining seconds at the recent speed, validations to come included."""
    recent = [row["it_per_sec"] for row in history.of("train")[-10:] if row.get("it_per_sec")]
    remaining = history.total_steps - history.step
    if not recent or not history.total_steps:
        return None
    seconds = remaining * len(recent) / sum(recent)
    validations = history.of("valid")[1:]  # the first is before step 1
    if validations:
        interval = validations[-1]["step"] / len(validations)
        seconds += remaining / interval * validations[-1].get("seconds", 0.0)
    return max(0.0, seconds - (now - history.metrics[-1]["time"]))


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
