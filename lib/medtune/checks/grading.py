"""The one grade, category or verdict that the facts of the question call for."""

from __future__ import annotations

import re

from medtune.checks._text import mentions, negated, normalise
from medtune.i18n import Words

NAME: Words = {"en": "right grading", "zh": "分级正确"}


def check(answer: str, value: str | list[str], rivals: list[str] | None = None) -> float | None:
    """1 when the first grade the answer asserts is ``value`` (any of its wordings), 0 when it is one of ``rivals``.

    ``rivals`` is the rest of the scale. The first assertion counts, because a good answer may go on to explain the
    other grades. A negated grade (不是2级) asserts nothing, nor does a title in 《》; a longer name wins over one
    inside it (正常高值 is not 正常).
    """
    right = [normalise(name) for name in ([value] if isinstance(value, str) else value)]
    wrong = [normalise(name) for name in rivals or []]
    text = re.sub("《[^》]*》", "", answer)
    asserted = [name for start, _, name in mentions(text, [*right, *wrong]) if not negated(text, start, reach=4)]
    return float(asserted[0] in right) if asserted else None
