"""The history of a run: its metrics.jsonl as curves, for the monitor and the report.

Reading tolerates what a living or killed run leaves: no file yet, a last line half written, and steps that a resumed
run took a second time (the second time counts).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Curve = list[tuple[int, float]]  # (step, value), steps ascending

TURNS = ("start", "resume", "stop", "finish", "early_stop")  # events that begin or end a stretch of training


@dataclass(frozen=True)
class History:
    """The rows of one run that count, in the order they were written."""

    rows: tuple[Row, ...] = ()

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
        """Keep the rows that count: of the last start, and of each step the last time it was taken."""
        rows: list[Row] = []
        for line in lines:
            row = _row(line)
            if row is None:
                continue
            if row["kind"] == "event" and row.get("name") == "start":
                rows = []
            elif row["kind"] == "event" and row.get("name") == "resume":
                rows = [old for old in rows if old["kind"] == "event" or old["step"] <= row["step"]]
            elif row["kind"] == "valid":
                rows = [old for old in rows if (old["kind"], old["step"]) != ("valid", row["step"])]
            rows.append(row)
        return cls(tuple(rows))

    def of(self, kind: str) -> list[Row]:
        """The rows of one kind: train, valid, checkpoint or event."""
        return [row for row in self.rows if row["kind"] == kind]

    def curve(self, kind: str, key: str) -> Curve:
        """(step, value) of ``key`` (``loss``, or ``loss_by_dim.vision``) where it was reported."""
        found = [(row["step"], _lookup(row, key)) for row in self.of(kind)]
        return [(step, float(value)) for step, value in found if value is not None]

    @property
    def total_steps(self) -> int:
        """How many steps the run set out to take; 0 when it has not said so."""
        return next((row["total_steps"] for row in reversed(self.rows) if row.get("total_steps")), 0)

    @property
    def step(self) -> int:
        """The last step reported."""
        return max((row["step"] for row in self.rows), default=0)

    @property
    def turn(self) -> str:
        """The last event that began or ended a stretch of training, or an empty string."""
        return next((row["name"] for row in reversed(self.of("event")) if row.get("name") in TURNS), "")

    @property
    def best(self) -> Row | None:
        """The validation with the lowest loss."""
        return min(self.of("valid"), key=lambda row: row["loss"], default=None)


def _row(line: str) -> Row | None:
    """The row on one line; None for a line that a killed process left half written."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and "kind" in row and "step" in row else None


def _lookup(row: Row, key: str) -> Any:
    value: Any = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
