"""Rejections: rows that did not become records, with their place and the reason; never dropped in silence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from medtune import files
from medtune.i18n import tr


class Rejected(Exception):
    """A row that does not become a record: a reason ``sentence`` knows, and what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def sentence(reason: str) -> str:
    """A reason for people, in their language; raises KeyError for one that is not known."""
    return {
        "json": tr("the line is not JSON"),
        "layout": tr("its keys are not those of its layout"),
        "fields": tr("a field has the wrong form"),
        "role": tr("a turn of an unknown role"),
        "empty": tr("a turn without text"),
        "no_assistant": tr("no assistant turn"),
        "last_not_assistant": tr("the last turn is not the assistant's"),
        "roles": tr("user and assistant do not alternate"),
        "image_markers": tr("as many <image> markers as images are needed"),
        "image_missing": tr("an image file is missing"),
        "image_broken": tr("an image cannot be decoded"),
        "image_url": tr("an image on the web: save it beside the data"),
        "span": tr("a span outside the answer"),
        "privacy": tr("personal data"),
        "duplicate_id": tr("an id that was used before"),
        "duplicate": tr("the same conversation again"),
        "near_duplicate": tr("almost the same conversation again"),
        "contradiction": tr("the same conversation with the other label"),
        "too_long": tr("more tokens than max_seq_length"),
    }[reason]


@dataclass
class Rejections:
    """Writes ``rejected.jsonl`` as rows are rejected and counts them. Only the file holds what the rows say."""

    file: TextIO
    reasons: Counter[str] = field(default_factory=Counter)
    sources: Counter[Path] = field(default_factory=Counter)  # by file
    first: dict[str, str] = field(default_factory=dict)  # reason: file:line

    def add(self, path: Path, line: int, fault: Rejected, row: Any) -> None:
        """Note one rejected row."""
        sentence(fault.reason)  # a reason nobody can explain is a bug
        entry = {"file": str(path), "line": line, "reason": fault.reason, "detail": fault.detail, "row": row}
        self.file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.reasons[fault.reason] += 1
        self.sources[path] += 1
        self.first.setdefault(fault.reason, f"{path}:{line}")

    def summary(self) -> dict[str, Any]:
        """What the receipt says: counts, never contents."""
        return {"total": self.reasons.total(), "reasons": dict(self.reasons.most_common())}


@contextmanager
def rejections(path: Path) -> Iterator[Rejections]:
    """Rejections that are written to ``path`` as a whole."""
    # backslashreplace: half a character, in a file's name say, is written as JSON escapes it
    with files.atomic(path) as partial, open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
        yield Rejections(file)
