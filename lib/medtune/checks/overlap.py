"""Agreement with the reference answer, for items that carry no check of their own."""

from __future__ import annotations

import re
from collections import Counter

from medtune.checks._text import normalise
from medtune.i18n import Words

NAME: Words = {"en": "close to the reference", "zh": "接近参考答案"}
UNIT = re.compile(r"[\u4e00-\u9fff]|[a-z]+|\d+(?:\.\d+)?")  # a Han character, a word or a number


def check(answer: str, reference: str) -> float:
    """F1 over Han characters, words and numbers shared with ``reference``, counted with multiplicity.

    Splitting Chinese on blanks would give 0 or 1. It measures wording, not truth: a wrong figure costs one unit.
    """
    said, meant = (Counter(UNIT.findall(text)) for text in (answer, normalise(reference)))
    common = (said & meant).total()
    return 2 * common / max(1, said.total() + meant.total())
