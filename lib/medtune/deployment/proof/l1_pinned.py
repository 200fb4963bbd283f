"""L1: the library versions that LM Studio's engine pins, in an environment of their own, answer the canaries."""

from __future__ import annotations

from typing import Any

from medtune.deployment.proof import Subject, behaviour
from medtune.i18n import tr

NAME = "LM Studio's versions"
AFTER_COMMIT = False


def check(subject: Subject) -> tuple[str, dict[str, Any], str]:
    """See ``behaviour``; skipped where the environment was not made."""
    if subject.pinned is None:
        return "skipped", {}, tr("its environment is not made; run `make prove PINNED=1` once (needs the network)")
    return behaviour.check(subject, subject.pinned)
