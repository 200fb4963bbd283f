"""What every check agrees on: one form of a text, its sentences, numbers with units, and what is negated."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
PUNCTUATION = str.maketrans("。、“”‘’【】「」—–−～•", '.,""\'\'[]""---~·')
NUMERALS = {
    **{numeral: str(value) for value, numeral in enumerate("一二三四五六七八九十", 1)},
    **{numeral: str(value) for value, numeral in enumerate(("i", "ii", "iii", "iv", "v", "vi"), 1)},
}
GRADE = re.compile(r"(?<![a-z0-9.一二三四五六七八九十])([一二三四五六七八九十]|iv|vi?|i{1,3}|\d)\s*(级|期|度|型)")
COUNT_UNIT = re.compile(r"\s*[x×*]?\s*10\s*(?:\^|e|\*\*)?\s*(9|12)\s*/\s*l")
HAN_GAP = re.compile(r"(?<=[\u4e00-\u9fff])\s+(?=[\u4e00-\u9fff])")
NEGATION = re.compile(  # a bare 不 or 没 only right before the phrase: 不适, 不过 and 特别 negate nothing
    r"不(?:能(?!排除|忽视|忽略|大意|拖)|可以?|要|是|会|应该?|宜|敢|建议|推荐|需要?|必|用|一定|太|属于|算|等于|存在|认为)"
    r"|未必|未见|未达到?|无法|无需|无须|没有|并非|切勿|请勿|避免|难以|很难|难说|禁止|拒绝|不再"
    r"|(?<![特分区性级鉴差类个识辨告])别(?!的|人)|(?:不|没|未|无|勿|非)$"
)


def normalise(text: str) -> str:
    """The one form in which texts are compared.

    NFKC (full width, ℃, Ⅱ), lower case, ASCII punctuation, no blanks between Han characters, grades with Arabic
    figures (二级 = Ⅱ级 = II 级 = 2级), cell counts as ``×10^9/l``. Superscripts are kept apart as ``^``: NFKC alone
    would turn 10⁹ into 109.
    """
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda run: "^" + run.group().translate(SUPERSCRIPTS), text)
    text = unicodedata.normalize("NFKC", text.replace("…", "...")).lower().translate(PUNCTUATION)
    text = HAN_GAP.sub("", re.sub(r"[ \t]+", " ", text)).strip()
    text = GRADE.sub(lambda grade: NUMERALS.get(grade[1], grade[1]) + grade[2], text)
    return COUNT_UNIT.sub(r"×10^\1/l", text)


def sentences(text: str) -> list[str]:
    """Sentences of a normalised text; a point inside a number does not end one."""
    parts = re.split(r"[!?;\n]+|\.(?!\d)", text)
    return [part.strip() for part in parts if part.strip()]


def clause_before(text: str, position: int) -> str:
    """What stands before ``position`` in the same clause."""
    return re.split(r"[,.;:!?\n]", text[:position])[-1]


def negated(text: str, position: int, reach: int = 8) -> bool:
    """Whether a negation stands in the last ``reach`` characters of the clause before ``position``."""
    return NEGATION.search(clause_before(text, position)[-reach:]) is not None


class Mention(NamedTuple):
    """An occurrence of a name: where it starts and ends, and which of the names it is."""

    start: int
    end: int
    name: str


def mentions(text: str, names: Iterable[str]) -> list[Mention]:
    """Occurrences of ``names`` in order; one inside a longer one does not count (正常 in 正常高值)."""
    found = [
        Mention(match.start(), match.end(), name)
        for name in set(names)
        if name
        for match in re.finditer(_whole(name), text)
    ]
    longest_first = sorted(found, key=lambda mention: mention.start - mention.end)
    kept: list[Mention] = []
    for mention in longest_first:
        if all(mention.end <= other.start or mention.start >= other.end for other in kept):
            kept.append(mention)
    return sorted(kept)


def _whole(name: str) -> str:
    """A pattern for a name; one of Latin letters is not found inside a longer word (hb in hba1c)."""
    left, right = (r"(?<![a-z])" if name[0].isascii() else ""), (r"(?![a-z])" if name[-1].isascii() else "")
    return left + re.escape(name) + right


UNITS: dict[str, Sequence[str]] = {
    "mmhg": ("mmhg", "毫米汞柱"),
    "°c": ("°c", "摄氏度", "度"),
    "%": ("%", "percent"),
    "g/l": ("g/l", "克/升"),
    "mmol/l": ("mmol/l", "毫摩尔/升"),
    "μmol/l": ("μmol/l", "umol/l", "微摩尔/升"),
    "mg": ("mg", "毫克"),
    "ml": ("ml", "毫升"),
    "kg": ("kg", "公斤", "千克"),
}
NUMBER = r"\d+(?:\.\d+)?"
FIGURES = re.compile(  # those of 3.5-9.5×10^9/l or 140/90 mmhg share what follows the last; t3 and 10^9 are names
    rf"(?<![\d.^×])(?<![a-z](?=\d(?![\d.])))({NUMBER}(?:\s*[-~/至到]\s*{NUMBER})*)\s*(?=(×10\^\d+/l|[a-z%°μ/]+|[\u4e00-\u9fff/]{{0,6}})?)"
)


class Figure(NamedTuple):
    """A number in a text and what follows it."""

    value: float
    unit: str


def figures(text: str) -> list[Figure]:
    """The numbers of a normalised text; those of a range or list carry the unit after its last."""
    found = []
    for match in FIGURES.finditer(text):
        found += [Figure(float(number), match[2] or "") for number in re.findall(NUMBER, match[1])]
    return found


def has_unit(figure: Figure, unit: str) -> bool:
    """Whether the figure carries ``unit`` under any of its spellings."""
    wanted = normalise(unit)
    spellings = next((names for names in UNITS.values() if wanted in names), (wanted,))
    return figure.unit.startswith(tuple(spellings))
