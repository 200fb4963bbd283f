"""L2: the interpreter that LM Studio itself installed for its MLX engine answers the canaries."""

from __future__ import annotations

from medtune import lmstudio
from medtune.deployment.proof import NOT_INSTALLED, Subject, Verdict, behaviour
from medtune.i18n import Words

NAME: Words = {"en": "LM Studio's interpreter", "zh": "LM Studio 的解释器"}
AFTER_COMMIT = False
FIGURES, FIGURES_SEEN = behaviour.FIGURES, behaviour.FIGURES_SEEN
SENTENCES: dict[str, Words] = {
    **behaviour.SENTENCES,
    "not_installed": NOT_INSTALLED,
    "no_engine": {
        "en": "LM Studio has no MLX engine; install it in the app under Settings, Runtime, then `make prove`",
        "zh": "LM Studio 没有 MLX 引擎；请在应用的 Settings、Runtime 里安装，再运行 `make prove`",
    },
}


def check(subject: Subject) -> Verdict:
    """See ``behaviour``; skipped where the app, or its MLX engine, is not installed."""
    if subject.home is None:
        return Verdict.skipped("not_installed")
    python = lmstudio.engine_python(subject.home)
    return behaviour.check(subject, python) if python else Verdict.skipped("no_engine")
