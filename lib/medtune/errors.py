"""The one error type for what the person can fix."""

from __future__ import annotations

from collections.abc import Iterable

from medtune.i18n import tr

MEMORY_WORDS = ("out of memory", "outofmemory", "insufficient memory", "malloc", "allocate", "alloc]", "bad_alloc")


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or MLX, which raises a RuntimeError on Metal, CUDA and CPUs, found no memory left."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in said for word in MEMORY_WORDS)
    )
