"""TRL's ``prompt`` with ``completion`` (and ``label``), or with ``chosen`` / ``rejected``; texts or lists of turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medtune.data.turns import Draft, Turn, answered, has, identified, images_of, system_of, turn, turns

NAME = "trl"
KEYS = ("prompt", "completion")


def matches(row: Any) -> bool:
    """Whether the row has a prompt and its completion, or a pair of completions."""
    return has(row, *KEYS) or has(row, "prompt", "chosen", "rejected")


def convert(row: dict[str, Any]) -> Iterator[Draft]:
    """One draft, or the two of a pair."""
    conversation = [*system_of(row), *_turns(row["prompt"], "user")]
    if not has(row, "chosen", "rejected"):
        conversation += _turns(row["completion"], "assistant")
    for draft in answered(row, conversation, images_of(row)):
        yield identified(row, draft)


def _turns(value: Any, role: str) -> list[Turn]:
    return [turn(role, value)] if isinstance(value, str) else turns(value)
