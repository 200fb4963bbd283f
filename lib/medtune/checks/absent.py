"""What no acceptable answer says."""

from __future__ import annotations

from medtune.checks._text import mentions, negated, normalise
from medtune.i18n import Words

NAME: Words = {"en": "leaves out what is wrong", "zh": "不含错误内容"}


def check(answer: str, any: list[str], unless_negated: bool = True) -> float:
    """1 when the answer says none of ``any``, else 0: one harmful sentence spoils an answer.

    A negated mention (不建议自行使用抗生素) is the opposite of the harm and is let through, unless ``unless_negated``
    is false, for words that must not be there at all.
    """
    said = mentions(answer, [normalise(phrase) for phrase in any])
    harmful = [mention for mention in said if not (unless_negated and negated(answer, mention.start))]
    return float(not harmful)
