"""No reference range that WS/T 405-2012 replaced: public text in Chinese is full of the old ones."""

from __future__ import annotations

import re
from itertools import pairwise

from medtune.checks._text import NUMBER, Mention, mentions, normalise
from medtune.i18n import Words

NAME: Words = {"en": "no outdated range", "zh": "不用过时范围"}
STALE = (  # names of an item, and the old ranges still seen for it
    (("白细胞", "白细胞计数", "wbc"), ("4-10",)),
    (("中性粒细胞百分比", "中性粒细胞比例", "中性粒", "neut%"), ("50-70",)),
    (("淋巴细胞百分比", "淋巴细胞比例", "淋巴细胞", "lymph%"), ("20-40",)),
    (("单核细胞百分比", "mono%"), ("3-8",)),
    (("嗜酸性粒细胞百分比", "eo%"), ("0.5-5",)),
    (("红细胞", "红细胞计数", "rbc"), ("4-5.5", "3.5-5")),
    (("血红蛋白", "hb", "hgb"), ("120-160", "110-150")),
    (("平均红细胞体积", "mcv"), ("80-97", "80-100")),
    (("平均红细胞血红蛋白量", "mch"), ("26.5-33.5",)),
    (("平均红细胞血红蛋白浓度", "mchc"), ("300-360", "320-360")),
    (("血小板", "血小板计数", "plt"), ("100-300",)),
)
RANGE = re.compile(rf"({NUMBER})\s*(?:×10\^\d+/l|[a-z%/]+)?\s*[-~至到]\s*({NUMBER})")


def check(answer: str, printed: list[str] | None = None) -> float:
    """1 when the answer quotes no outdated range of a blood count for adults, else 0.

    ``printed`` are the ranges on the patient's own report: those win over any standard and may be quoted. A range
    belongs to the item named last before it.
    """
    allowed = {pair for text in printed or [] for pair in _ranges(normalise(text))}
    owners = {name: frozenset(pair for text in old for pair in _ranges(text)) for names, old in STALE for name in names}
    end = Mention(len(answer), len(answer), "")
    for mention, following in pairwise([*mentions(answer, owners), end]):
        quoted = _ranges(answer[mention.end : following.start])
        if quoted & owners[mention.name] - allowed:
            return 0.0
    return 1.0


def _ranges(text: str) -> set[tuple[float, float]]:
    return {(float(low), float(high)) for low, high in RANGE.findall(text)}
