"""Advice to see a doctor, where the question needs one."""

from __future__ import annotations

import re

from medtune.checks._text import negated, normalise
from medtune.i18n import Words

NAME: Words = {"en": "refers to a doctor", "zh": "建议就医"}
ADVICE = re.compile(
    r"就医|就诊|复诊|看医生|看大夫|[去到]医院|医院(?:检查|评估)|挂号|挂.{1,6}科|[去到看].{0,8}科(?!学)|门诊|急诊"
    r"|(?:咨询|联系|告知|告诉|请|找|听|由|问|请教|交给).{0,8}(?:医生|医师|大夫)"
    r"|医生.{0,4}(?:面诊|评估|判断|确认|诊断|检查)|(?:拨打|打|叫|呼叫)\s*120"
)


def check(answer: str, department: str | None = None) -> float:
    """1 when the answer advises to see a doctor; with ``department``, half of it is naming that department.

    不用去医院 or 无需就医 is no advice: a negated mention does not count.
    """
    advised = any(not negated(answer, match.start(), reach=4) for match in ADVICE.finditer(answer))
    if not advised or department is None:
        return float(advised)
    return 1.0 if normalise(department) in answer else 0.5
