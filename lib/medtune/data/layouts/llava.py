"""LLaVA's image conversations: ``id``, ``image``, ``conversations`` with ``<image>`` in a human turn.

Its ``id`` names the image and repeats over the conversations about it, so it is not taken as the record's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medtune.data.turns import Draft, compose, has, images_of, system_of, turns

NAME = "llava"
KEYS = ("id", "image", "conversations")


def matches(row: Any) -> bool:
    """Whether the row is a conversation about one image file."""
    return has(row, *KEYS) and isinstance(row["image"], str) and isinstance(row["conversations"], list)


def convert(row: dict[str, Any]) -> Iterator[Draft]:
    """One draft."""
    yield compose([*system_of(row), *turns(row["conversations"])], images_of(row))
