"""A quantified answer: the figures a right answer states."""

from __future__ import annotations

import re

from medtune.checks._text import NUMBER, figures, has_unit, normalise
from medtune.i18n import Words

NAME: Words = {"en": "right figure", "zh": "数值正确"}


def check(answer: str, value: str | float | None = None, unit: str | None = None, tolerance: float = 0.0) -> float:
    """The share of the numbers in ``value`` (38.5, 140/90, 3.5-9.5) that the answer states.

    Without ``value``: whether it states any figure. A number is found as a number of its own (140 is not in 1405)
    within ``tolerance`` (absolute). With ``unit`` only figures that carry it count, in any usual spelling (℃, 度;
    mmHg, 毫米汞柱); the numbers of a range share the unit after the last. Numbers in characters are not read.
    """
    stated = [figure.value for figure in figures(answer) if unit is None or has_unit(figure, unit)]
    if value is None:
        return float(bool(stated))
    wanted = [float(number) for number in re.findall(NUMBER, normalise(str(value)))]
    found = [any(abs(number - one) <= tolerance + 1e-9 for number in stated) for one in wanted]
    return sum(found) / max(1, len(found))
