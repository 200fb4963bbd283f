"""L1: a fresh process of our own stack loads the folder strictly and answers the canaries."""

from __future__ import annotations

import sys
from pathlib import Path

from medtune.deployment.proof import Subject, Verdict, behaviour
from medtune.i18n import Words

NAME: Words = {"en": "own stack", "zh": "自己的环境"}
AFTER_COMMIT = False
FIGURES, FIGURES_SEEN = behaviour.FIGURES, behaviour.FIGURES_SEEN
SENTENCES = behaviour.SENTENCES


def check(subject: Subject) -> Verdict:
    """See ``behaviour``."""
    return behaviour.check(subject, Path(sys.executable))
