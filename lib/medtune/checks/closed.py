"""A question with yes or no for an answer."""

from __future__ import annotations

import re

from medtune.i18n import Words

NAME: Words = {"en": "right yes or no", "zh": "是非正确"}
YES = ("是的", "是", "对", "有", "可以", "能", "yes", "会", "需要", "正确")
NO = ("不是", "否", "不对", "没有", "没", "不可以", "不能", "no", "无", "不会", "不需要", "不用", "不", "错误", "未见")
FIRST = re.compile("|".join(sorted((re.escape(word) for word in (*YES, *NO)), key=len, reverse=True)))


def check(answer: str, value: bool) -> float | None:
    """1 when the first word of yes or no in the answer's first clause says ``value``, else 0; no such word is wrong."""
    first = FIRST.search(re.split(r"[,.;!?\n]", answer)[0])
    return None if first is None else float((first.group() in YES) == value)
