"""A multiple-choice question: the set of letters the answer settles on."""

from __future__ import annotations

import re

from medtune.i18n import Words

NAME: Words = {"en": "right option", "zh": "选项正确"}
STATED = re.compile(r"(?:答案|正确选项|选择?)(?:是|为|应?该?是|应为)?\s*[:]?\s*((?:[a-h][\s,.、和及与\"]*)+)(?![a-z])")
BARE = re.compile(r"^\W*((?:[a-h][\s,、和及与]*)+)(?:[.:)]|$)")


def check(answer: str, value: str) -> float | None:
    """1 when the letters the answer states are exactly those of ``value`` (B, or ACD in any order), else 0.

    Read from the last 答案是…/选… or from an answer that begins with the letters. Nothing is guessed: an answer whose
    choice cannot be read is wrong.
    """
    stated = STATED.findall(answer) or BARE.findall(answer)
    return float(set(re.findall("[a-h]", stated[-1])) == set(value.lower())) if stated else None
