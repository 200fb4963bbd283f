"""L1: a fresh process of our own stack loads the folder strictly and answers the canaries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from medtune.deployment.proof import Subject, behaviour

NAME = "own stack"
AFTER_COMMIT = False


def check(subject: Subject) -> tuple[str, dict[str, Any], str]:
    """See ``behaviour``."""
    return behaviour.check(subject, Path(sys.executable))
