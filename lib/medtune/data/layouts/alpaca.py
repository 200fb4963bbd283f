"""Alpaca: ``instruction``, ``input``, ``output``, with LLaMA-Factory's ``system``, ``history`` and ``images``.

``chosen`` / ``rejected`` in place of ``output`` give a pair; ``kto_tag`` gives the label.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medtune.data.rejections import Rejected
from medtune.data.turns import Draft, Turn, answered, has, identified, images_of, system_of, turn

NAME = "alpaca"
KEYS = ("instruction", "output")


def matches(row: Any) -> bool:
    """Whether the row has an instruction and an answer, or a pair of answers."""
    return has(row, *KEYS) or has(row, "instruction", "chosen", "rejected")


def convert(row: dict[str, Any]) -> Iterator[Draft]:
    """One draft, or the two of a pair."""
    asked = [text for text in (row["instruction"], row.get("input")) if text]
    if not all(isinstance(text, str) for text in asked):
        raise Rejected("fields", "instruction and input are texts")
    prompt = [*system_of(row), *_history(row), turn("user", "\n".join(asked))]
    if not has(row, "chosen", "rejected"):
        prompt.append(turn("assistant", row["output"]))
    for draft in answered(row, prompt, images_of(row)):
        yield identified(row, draft)


def _history(row: dict[str, Any]) -> list[Turn]:
    rounds = row.get("history") or []
    if not isinstance(rounds, list) or not all(isinstance(one, list) and len(one) == 2 for one in rounds):
        raise Rejected("fields", "history is a list of [question, answer]")
    return [turn(role, text) for one in rounds for role, text in zip(("user", "assistant"), one, strict=True)]
