"""L2: the interpreter that LM Studio itself installed for its MLX engine answers the canaries."""

from __future__ import annotations

from typing import Any

from medtune import lmstudio
from medtune.deployment.proof import Subject, behaviour
from medtune.i18n import tr

NAME = "LM Studio's interpreter"
AFTER_COMMIT = False


def check(subject: Subject) -> tuple[str, dict[str, Any], str]:
    """See ``behaviour``; skipped where the app, or its MLX engine, is not installed."""
    if subject.home is None:
        return "skipped", {}, tr("LM Studio is not installed here")
    python = lmstudio.engine_python(subject.home)
    if python is None:
        return (
            "skipped",
            {},
            tr("LM Studio has no MLX engine; install it in the app under Settings, Runtime, then `make prove`"),
        )
    return behaviour.check(subject, python)
