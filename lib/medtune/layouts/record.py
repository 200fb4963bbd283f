"""medtune's own records, as JSON lines: the only layout that carries dimensions, spans, checks and clusters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medtune.drafts import Draft, has
from medtune.records import Record

NAME = "record"
KEYS = ("id", "source", "messages")


def matches(row: Any) -> bool:
    """Whether the row has a record's keys and no others."""
    return has(row, *KEYS) and row.keys() <= Record.model_fields.keys()


def convert(row: dict[str, Any]) -> Iterator[Draft]:
    """The row as it stands: spans count characters, so no text is touched."""
    yield {key: value for key, value in row.items() if value is not None}
