"""Warmth that answers the person, not only the question."""

from __future__ import annotations

import re

from medtune.i18n import Words

NAME: Words = {"en": "warm words", "zh": "关怀表达"}
ACTS = {  # what a person does who cares
    "acknowledges": (
        r"(?:理解|明白)[您你这]|[能很可]以?(?:理解|体会|明白)|体会到|感受到|听到[您你]"
        r"|[您你]的(?:担心|担忧|焦虑|心情|感受|不安)"
        r"|(?:很|挺|非常|十分|特别|真的?|确实|一定)(?:不容易|辛苦|难受|不好受|煎熬|担心|难熬|害怕)|辛苦了"
    ),
    "reassures": (
        r"(?:别|不要|不必|不用|请勿)(?:太|过于|过度|过分)?(?:担心|着急|紧张|害怕|焦虑|慌|自责)"
        r"|放宽心|放轻松|请您?放心|安心|慢慢来"
    ),
    "accompanies": r"陪[着伴您你]|一起|我们(?:会|来|可以|一步)|随时(?:可以)?(?:告诉|问|联系|来)|我们?会?一直都?在",
    "encourages": (
        r"会(?:慢慢|逐渐)?(?:好起来|好转)|祝[您你]|早日康复|加油|相信[您你]|做得(?:很)?好|保重|照顾好(?:自己|身体)"
    ),
    "asks": r"(?:愿意|能|可以|方便)(?:和我|跟我|告诉我|再?说说|聊聊)|[您你](?:最近|现在|平时).{0,12}[吗呢]",
}
DISMISSIVE = re.compile(
    r"想太多|矫情|小题大做|大惊小怪|自己查|这点小[病事]|无理取闹|别来烦|没什么大不了|装病|太娇气|自找的|活该"
)


def check(answer: str, acts: int = 1) -> float:
    """How many kinds of caring acts the answer shows, of ``acts`` wanted, at most 1; 0 when it is dismissive.

    Kinds: acknowledging the feeling, reassuring, accompanying, encouraging, asking on; each counts once however often
    it is said, so boilerplate gains nothing. It finds words of care and cannot tell whether they fit: that is what
    the doctors' review is for.
    """
    if DISMISSIVE.search(answer):
        return 0.0
    shown = sum(re.search(pattern, answer) is not None for pattern in ACTS.values())
    return min(1.0, shown / max(1, acts))
