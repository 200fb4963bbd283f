"""No claim of certainty that nobody can have from a distance (武断)."""

from __future__ import annotations

import re

from medtune.checks._text import negated, normalise
from medtune.i18n import Words

NAME: Words = {"en": "no absolute claim", "zh": "不武断"}
FEELING = r"(?!.{0,3}(?:担心|难受|紧张|害怕|焦虑|着急|好受|容易|累|辛苦|好起来))"  # 您一定很担心 is no claim
CLAIMS = re.compile(
    rf"肯定就?{FEELING}(?:是|不|没|无|会|能|可以|得|有|要死|治|好|安全|正常|有效)"
    rf"|一定就?{FEELING}(?:是|不会|不是|没|会|能|可以|有|治|好)"
    r"|必然|必定|必死|绝对(?!值|计数|数|禁|卧床|风险|湿度)|毫无疑问|毋庸置疑|确定无疑"
    r"|(?:100%|百分之?百)[就都]?(?:是|不|没|会|能|可以|确定|肯定|治|安全|有效|好|准)"
    r"|保证[你您能]?(?:可以)?.{0,4}(?:治|好|没|不|康复|痊愈)|包治|包好"
    r"|根本(?:没事|不用|不是|不可能)|完全没(?:有?问题|事)|不可能(?:是|有|会)"
    r"|(?:不用|不必|无需|没必要)[去到上]?看?(?:医院|医生|就医|就诊|检查)|一看就(?:是|知道)|死定了|没救|治不好"
)
QUESTION = re.compile(r"[^,.;!?\n]*(?:吗|\?)")


def check(answer: str, phrases: list[str] | None = None) -> float:
    """1 when the answer makes no absolute claim, else 0; ``phrases`` adds claims of one's own.

    Read with negation: 不能肯定是, 不一定是, 无法保证治好 are the humility that is asked for. A question (肯定是肺炎吗)
    claims nothing. Absolute words of medicine (绝对值, 绝对禁忌, 绝对卧床) and orders (一定要就医) are no claims.
    """
    own = "|".join(re.escape(normalise(phrase)) for phrase in phrases or [])
    patterns = [CLAIMS, *([re.compile(own)] if own else [])]
    found = [match for pattern in patterns for match in pattern.finditer(answer)]
    return float(all(negated(answer, match.start(), reach=6) or _asked(answer, match.end()) for match in found))


def _asked(answer: str, end: int) -> bool:
    """Whether the clause that goes on at ``end`` is a question."""
    return QUESTION.match(answer, end) is not None
