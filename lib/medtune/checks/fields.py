"""Rows read from the image of a report: the right value, and the right verdict, for each item."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Literal, NotRequired

from pydantic import ConfigDict
from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from medtune.checks._text import Mention, figures, mentions, normalise
from medtune.i18n import Words

NAME: Words = {"en": "fields read from the image", "zh": "读出图中字段"}


class Wanted(TypedDict):
    """What one row of the sheet holds; a key that is left out is not asked for."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    value: NotRequired[str]
    flag: NotRequired[Literal["高", "低", ""]]
    names: NotRequired[list[str]]


NAMES = (  # the same item under its usual names
    ("白细胞", "白细胞计数", "wbc"),
    ("红细胞", "红细胞计数", "rbc"),
    ("血红蛋白", "hb", "hgb", "血色素"),
    ("血小板", "血小板计数", "plt"),
    ("中性粒", "中性粒细胞", "中性粒细胞百分比", "中性粒细胞比例", "neut%", "neut"),
    ("淋巴细胞", "淋巴细胞百分比", "lymph%", "lymph"),
    ("红细胞压积", "hct"),
    ("平均红细胞体积", "mcv"),
    ("尿蛋白", "蛋白质", "pro"),
    ("葡萄糖", "尿糖", "glu"),
    ("潜血", "隐血", "尿潜血", "尿隐血", "bld"),
    ("酮体", "尿酮体", "ket"),
)
HIGH, LOW, NORMAL = "高", "低", ""
VERDICTS = re.compile(
    r"(?P<not_high>(?:不|未|没有?|无)(?:偏|升|增|明显升)?高)|(?P<not_low>(?:不|未|没有?|无)(?:偏|降|减|明显降)?低)"
    r"|(?P<abnormal>不正常|异常(?!现象)|不在.{0,2}范围)"
    r"|(?P<high>(?:高于|超过|超出|大于).{0,6}(?:正常|参考|上限|范围)|高于|超过|超标|偏?高(?!血)|升高|增高|增多|↑|阳性)"
    r"|(?P<low>(?:低于|小于|不足).{0,6}(?:正常|参考|下限|范围)|低于|偏?低(?!血)|降低|减低|减少|下降|↓)"
    r"|(?P<normal>正常|范围内|未见(?:明显)?异常|无异常|没有异常|阴性)"
)
JOINED = re.compile(r"^[\s、,和及与以均都]*$")
PLUSES = re.compile(r"(\++|\d\+|±|\+-|阴性|阳性|(?<![\d.])-(?!\d))")


def check(answer: str, fields: dict[str, Wanted]) -> float:
    """The share of the wanted values and flags that the answer states, over all rows of ``fields``.

    ``{"白细胞": {"value": "11.2", "flag": "高"}}``; flag 高, 低 or "" (within range); ``names`` adds names of an item.
    What stands between an item's name and the next item's is said of it; items listed together (A、B均正常) share
    what follows. A flag is the first verdict there, read with negation (不高 is within range, 低于正常 is low). Values
    such as 2+ equal ++; 阳性 counts as high. Items that are not in ``fields`` cost nothing here.
    """
    said = _segments(answer, fields)
    marks = []
    for item, row in fields.items():
        segments = said.get(item, [])
        if "value" in row:
            marks.append(any(_states(segment, row["value"]) for segment in segments))
        if "flag" in row:
            verdicts = [verdict for verdict in map(_verdict, segments) if verdict is not None]
            marks.append(bool(verdicts) and verdicts[0] == normalise(row["flag"]))
    return sum(marks) / max(1, len(marks))


def _names(item: str, row: Wanted) -> set[str]:
    own = {normalise(name) for name in (item, *row.get("names", []))}
    return own.union(*(group for group in NAMES if own & set(group)))


def _segments(answer: str, fields: dict[str, Wanted]) -> dict[str, list[str]]:
    """What the answer says of each item, in order."""
    owners = {name: item for item, row in fields.items() for name in _names(item, row)}
    bystanders = {name for group in NAMES for name in group}  # an item that is not asked for ends a segment too
    found = mentions(answer, {*owners, *bystanders})
    end = Mention(len(answer), len(answer), "")
    texts = [answer[mention.end : following.start] for mention, following in pairwise([*found, end])]
    for index in range(len(texts) - 2, -1, -1):
        if JOINED.match(texts[index]):
            texts[index] = texts[index + 1]
    said: dict[str, list[str]] = {}
    for mention, text in zip(found, texts, strict=True):
        if mention.name in owners:
            said.setdefault(owners[mention.name], []).append(re.split(r"其余|其他|其它|建议", text)[0])
    return said


def _states(segment: str, value: str) -> bool:
    value = normalise(value)
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return any(abs(figure.value - float(value)) < 1e-9 for figure in figures(segment))
    return _canonical(value) in {_canonical(mark) for mark in PLUSES.findall(segment)} or value in segment


def _canonical(mark: str) -> str:
    """Semi-quantitative results: ++ = 2+, + = 1+, +- = ±, - = 阴性."""
    if re.fullmatch(r"\++", mark):
        return f"{len(mark)}+"
    return {"+-": "±", "-": "阴性"}.get(mark, mark)


def _verdict(segment: str) -> str | None:
    meanings = {"high": HIGH, "low": LOW, "normal": NORMAL, "not_high": NORMAL, "not_low": NORMAL}
    return next((meanings[m.lastgroup] for m in VERDICTS.finditer(segment) if m.lastgroup in meanings), None)
