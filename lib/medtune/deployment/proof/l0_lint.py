"""L0: the folder's files, against LM Studio's rules and against the base they come from."""

from __future__ import annotations

from typing import Any

from medtune import files
from medtune.deployment import folder
from medtune.deployment.proof import Subject, lint
from medtune.i18n import tr

NAME = "files"
AFTER_COMMIT = False


def check(subject: Subject) -> tuple[str, dict[str, Any], str]:
    """Failed with every fault; passed when the files are the base's own and the template the training's."""
    found = [str(problem) for problem in lint.problems(subject.folder)]
    found += [
        tr("{name}: not the base's own", name=name)
        for name in folder.VERBATIM
        if _digest(subject.base.path / name) != _digest(subject.folder / name)
    ]
    templates = set(folder.template_of(subject.folder).values())
    if templates != {subject.template}:
        found.append(tr("the chat template is not the one of the training"))
    return ("failed" if found else "passed"), {"problems": len(found)}, "; ".join(found)


def _digest(path: Any) -> str | None:
    return files.sha256(path) if path.exists() else None
