"""The one error type for what the person can fix."""

from __future__ import annotations

from collections.abc import Iterable

from medtune.i18n import tr


class UserError(Exception):
    """Something the person can fix: printed as ``error: <what was found>: <what to do>``, exit code 1.

    Everything else that is raised is a bug and keeps its traceback.
    """


def raise_all(problems: Iterable[str], where: str) -> None:
    """Raise one UserError naming every problem found in ``where``; do nothing when there is none."""
    problems = list(problems)
    if not problems:
        return
    if len(problems) == 1:
        raise UserError(f"{where}: {problems[0]}")
    lines = "\n".join(f"  {problem}" for problem in problems)
    raise UserError(tr("{where}: {n} problems", where=where, n=len(problems)) + f"\n{lines}")
