"""Deterministic checks of an answer, one file per kind.

A kind is a module of this package without a leading underscore. It has ``check(answer: str, **args) -> float | None``
in [0, 1], where ``answer`` is already normalised by ``_text.normalise``; None says that the verdict it looks for could
not be read, which is wrong, and counted; and ``NAME: Words``, what people call it. Adding a kind is adding a file, and
its line to EXAMPLES in tests/test_checks.py.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

from pydantic import ConfigDict, ValidationError, validate_call

from medtune import i18n
from medtune.checks._text import normalise
from medtune.i18n import Lang
from medtune.records import Check


@cache
def modules() -> dict[str, ModuleType]:
    """The module of every kind, by its name."""
    found = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return {kind: importlib.import_module(f"{__name__}.{kind}") for kind in sorted(found)}


@cache
def kinds() -> dict[str, Callable[..., float | None]]:
    """Every kind of check by name; its arguments are type-checked strictly when it is called."""
    strict = validate_call(config=ConfigDict(strict=True))
    return {kind: strict(module.check) for kind, module in modules().items()}


def name(kind: str, lang: Lang | None = None) -> str:
    """What people call a kind; one that is no longer there keeps the name it has in the files.

    A second check of one kind in a question, ``contains_2``, is ``names what it must (2)``.
    """
    first, _, number = kind.rpartition("_")
    if kind in modules():
        return i18n.say(modules()[kind].NAME, lang)
    return f"{name(first, lang)} ({number})" if first in modules() and number.isdigit() else kind


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
    for path in sorted(path for folder in __path__ for path in Path(folder).glob("[!.]*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
