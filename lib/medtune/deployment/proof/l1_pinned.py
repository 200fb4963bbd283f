"""L1: the library versions that LM Studio's engine pins, in an environment of their own, answer the canaries."""

from __future__ import annotations

from medtune.deployment.proof import Subject, Verdict, behaviour, stack
from medtune.i18n import Words

NAME: Words = {"en": "LM Studio's versions", "zh": "LM Studio 所用的版本"}
AFTER_COMMIT = False
FIGURES, FIGURES_SEEN = behaviour.FIGURES, behaviour.FIGURES_SEEN
SENTENCES: dict[str, Words] = {
    **behaviour.SENTENCES,
    "not_made": {
        "en": "its environment is not made; run `make prove PINNED=1` once (needs the network)",
        "zh": "还没有建立它的环境；请运行一次 `make prove PINNED=1`（需要网络）",
    },
}


def check(subject: Subject) -> Verdict:
    """See ``behaviour``; skipped where the environment was not made."""
    python = stack.interpreter()
    return behaviour.check(subject, python) if python else Verdict.skipped("not_made")
