"""Proof that a folder answers as base + adapter does: one module `l<level>_<name>.py` for each way to look.

A module has `NAME`, `AFTER_COMMIT` (the app must see the folder at its final place) and `check(subject) -> Verdict`.
A verdict is facts; what is said of them stands beside the check: `SENTENCES` by the codes of the faults, `FIGURES` one
sentence for the figures, where there are any, `FIGURES_SEEN` another for those of a model with eyes. Whoever adds a
level writes one file, and its line to EXAMPLES in tests/test_proof.py; they are found by their names and run in that
order. The report reads their words too: what needs MLX is imported inside `check`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from medtune.i18n import Words

if TYPE_CHECKING:
    from medtune.deployment.deltas import Delta
    from medtune.deployment.proof.references import References
    from medtune.model.base import Base

Fault = dict[str, Any]  # {"fault": code, ...values}: why a level failed or was skipped
NOT_INSTALLED: Words = {"en": "LM Studio is not installed here", "zh": "这台机器没有安装 LM Studio"}


@dataclass(frozen=True)
class Verdict:
    """What one level found, as facts; ``sentences`` says them."""

    verdict: Literal["passed", "failed", "skipped"]
    figures: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    level: str = ""  # L0 ... L3; written in, with the English name, by ``run``
    name: str = ""

    @classmethod
    def of(cls, faults: list[Fault], figures: dict[str, Any] | None = None) -> Verdict:
        """Passed when there is no fault."""
        return cls("failed" if faults else "passed", figures or {}, faults)

    @classmethod
    def skipped(cls, reason: str, figures: dict[str, Any] | None = None, **values: Any) -> Verdict:
        """Not measured here, for the reason with this code."""
        return cls("skipped", figures or {}, [{"fault": reason, **values}])

    @property
    def facts(self) -> dict[str, Any]:
        """For the receipt: a row of its ``proofs``."""
        return {name: getattr(self, name) for name in ("level", "name", "verdict", "figures", "faults")}


@dataclass(frozen=True)
class Subject:
    """The folder to be proved and what it is compared with."""

    folder: Path
    base: Base
    deltas: list[Delta]
    template: str
    references: References
    key: str  # <publisher>/<model>
    home: Path | None = None  # LM Studio's, None where it is not installed
    remote: bool = False  # whether LM Studio's server may be another machine


def levels() -> Iterator[tuple[str, ModuleType]]:
    """(L<n>, module) of every level, in their order."""
    for found in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        if level := re.fullmatch(r"l(\d)_\w+", found):
            yield f"L{level[1]}", importlib.import_module(f"{__name__}.{found}")


def run(subject: Subject, *, after_commit: bool = False) -> Iterator[Verdict]:
    """The verdicts of those levels that look before, or after, the folder is at its final place, as they are found.

    Ends with the first that failed, since the rest would mislead.
    """
    for level, module in levels():
        if module.AFTER_COMMIT is not after_commit:
            continue
        verdict = replace(module.check(subject), level=level, name=module.NAME["en"])
        yield verdict
        if verdict.verdict == "failed":
            return
