"""Deterministic checks of an answer, one file per kind.

A kind is a module of this package without a leading underscore. It has ``check(answer: str, **args) -> float | None``
in [0, 1], where ``answer`` is already normalised by ``_text.normalise``; None says that the verdict it looks for could
not be read, which is wrong, and counted. Adding a kind is adding a file.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pydantic import ConfigDict, ValidationError, validate_call

from medtune.checks._text import normalise
from medtune.records import Check

FOLDER = Path(__file__).parent


@cache
def kinds() -> dict[str, Callable[..., float | None]]:
    """Every kind of check by name; its arguments are type-checked strictly when it is called."""
    names = [module.name for module in pkgutil.iter_modules([str(FOLDER)]) if not module.name.startswith("_")]
    strict = validate_call(config=ConfigDict(strict=True))
    return {name: strict(importlib.import_module(f"{__name__}.{name}").check) for name in sorted(names)}


def score(check: Check, answer: str) -> float | None:
    """How far ``answer`` satisfies ``check``: 0 not at all, 1 fully, None unreadable; silence satisfies none."""
    text = normalise(answer)
    return kinds()[check.kind](text, **check.args) if text else 0.0


def problems(check: Check) -> list[str]:
    """What is wrong with a check as written: an unknown kind, unknown, missing or mistyped arguments."""
    if check.kind not in kinds():
        return [f"{check.kind}: no such check; there are {', '.join(kinds())}"]
    try:
        kinds()[check.kind]("", **check.args)
    except ValidationError as error:
        return [
            f"{check.kind}.{'.'.join(str(part) for part in item['loc'])}: {item['msg'].lower()}"
            for item in error.errors()
        ]
    return []


def sources_hash() -> str:
    """Hash of the checks' source: a changed rule makes an earlier evaluation stale."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
