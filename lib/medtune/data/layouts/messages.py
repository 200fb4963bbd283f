"""OpenAI's and mlx-vlm's ``messages``: turns of role and content, contents of text or of text and image parts.

Top-level ``image`` or ``images`` fill the parts without an address. ``chosen`` / ``rejected`` after the messages and
``kto_tag``, ``label`` or ``system`` beside them are read too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medtune.data.turns import Draft, answered, has, identified, images_of, system_of, turns

NAME = "messages"
KEYS = ("messages",)


def matches(row: Any) -> bool:
    """Whether the row has a list of turns under ``messages``."""
    return has(row, *KEYS) and isinstance(row["messages"], list)


def convert(row: dict[str, Any]) -> Iterator[Draft]:
    """One draft, or the two of a pair."""
    for draft in answered(row, [*system_of(row), *turns(row["messages"])], images_of(row)):
        yield identified(row, draft)
