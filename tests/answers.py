"""What a check says of an answer."""

from __future__ import annotations

from medtune import checks
from medtune.records import Check


def score(kind: str, answer: str, **args: object) -> float:
    """The score of ``answer`` by one check, 0 where it cannot be read."""
    return checks.score(Check(kind=kind, args=dict(args)), answer) or 0.0
