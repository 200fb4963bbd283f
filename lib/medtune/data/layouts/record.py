"""medtune's own records, as JSON lines: the only layout that carries dimensions, spans, checks and clusters.

What a record says beyond its ``messages`` counts, so a key that no record has is refused and not passed over.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from medtune.data.rejections import Rejected
from medtune.data.turns import Draft, has
from medtune.records import Record

NAME = "record"
KEYS = ("messages",)
FIELDS = Record.model_fields.keys()
MARKS = {"dim", "spans", "checks", "cluster", "pair"}  # what no other layout with messages says: one of them is enough
SHARED = {"id", "source", "messages", "images"}  # what rows of other origin have too, and keys like them
NEAR = 0.75  # by difflib: lable is label


def matches(row: Any) -> bool:
    """Whether the row has a list of turns under ``messages``; another layout may have them too (see ``is_own``)."""
    return has(row, *KEYS) and isinstance(row["messages"], list)


def marks(row: Any) -> list[str]:
    """The keys that make the row a record, whatever else it has."""
    return sorted(MARKS & row.keys()) if matches(row) else []


def is_own(row: Any) -> bool:
    """Whether the row is meant as a record: it has one of ``MARKS``, or it says whose it is in a record's keys.

    Metadata beside ``id`` and ``source`` make no record; a key that is nearly a record's does.
    """
    if marks(row):
        return True
    if not matches(row) or not has(row, "source"):
        return False
    others = row.keys() - FIELDS
    return (has(row, "id") and not others) or any(_near(key, FIELDS - SHARED) for key in others)


def unknown(row: Any) -> list[str]:
    """The keys of the row that no record has, each with the one it may mean: ``lable (label?)``."""
    others = [key for key in row if key not in FIELDS] if matches(row) else []
    return [f"{key} ({near}?)" if (near := _near(key, FIELDS)) else key for key in others]


def convert(row: dict[str, Any]) -> Iterator[Draft]:
    """The row as it stands: spans count characters, so no text is touched."""
    faults = unknown(row)
    if faults:
        raise Rejected("layout", f"no such key: {', '.join(faults)}")
    yield {key: value for key, value in row.items() if value is not None}


def _near(key: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(key, list(known), n=1, cutoff=NEAR)), "")
