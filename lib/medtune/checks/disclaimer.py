"""The caution that this is no doctor, at most once."""

from __future__ import annotations

import re

from medtune.i18n import Words

NAME: Words = {"en": "cautions at most once", "zh": "提醒不重复"}
CAUTION = re.compile(
    r"(?:仅供|只供|仅作)参考|不(?:能|可|构成)?(?:替代|代替|取代|作为)?.{0,6}(?:医生|医师|医疗建议|诊断依据|面诊)"
)


def check(answer: str, most: int = 1) -> float:
    """1 while the answer cautions in at most ``most`` sentences, then in inverse proportion.

    Repeated boilerplate costs warmth and hides the one sentence that matters.
    """
    times = sum(CAUTION.search(part) is not None for part in re.split(r"[.;!?\n]", answer))
    return 1.0 if times <= most else most / times
