"""ShareGPT's ``conversations``: turns of ``from`` (human, gpt, bot ...) and ``value``.

As in LLaMA-Factory there may be a ``system``, ``images``, a ``kto_tag``, or ``chosen`` / ``rejected`` answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medtune.data.turns import Draft, answered, has, identified, images_of, system_of, turns

NAME = "sharegpt"
KEYS = ("conversations",)


def matches(row: Any) -> bool:
    """Whether the row has a list of turns under ``conversations``."""
    return has(row, *KEYS) and isinstance(row["conversations"], list)


def convert(row: dict[str, Any]) -> Iterator[Draft]:
    """One draft, or the two of a pair."""
    for draft in answered(row, [*system_of(row), *turns(row["conversations"])], images_of(row)):
        yield identified(row, draft)
