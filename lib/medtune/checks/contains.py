"""What a right answer has to say, in one of several wordings."""

from __future__ import annotations

from collections.abc import Sequence

from medtune.checks._text import normalise
from medtune.i18n import Words

NAME: Words = {"en": "names what it must", "zh": "提到必要内容"}


def check(answer: str, any: list[str] | None = None, all: list[str] | None = None) -> float:
    """1 when the answer contains one of ``any``; with ``all``, the share of them that it contains; both multiply.

    Plain containment after normalisation: it asks for a fact's words, so give the shortest wording that carries it.
    """
    one_of = min(1.0, _found(answer, any)) if any else 1.0
    share = _found(answer, all) / len(all) if all else 1.0
    return one_of * share


def _found(answer: str, phrases: Sequence[str]) -> int:
    return sum(normalise(phrase) in answer for phrase in phrases)
