"""Proof that a folder answers as base + adapter does: one module `l<level>_<name>.py` for each way to look.

A module has `NAME`, `AFTER_COMMIT` (the app must see the folder at its final place) and `check(subject) -> Verdict`.
Whoever adds a level writes one file; they are found by their names and run in that order.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from medtune.i18n import tr

if TYPE_CHECKING:
    from medtune.deployment.deltas import Delta
    from medtune.deployment.proof.references import References
    from medtune.model.base import Base


@dataclass(frozen=True)
class Verdict:
    """What one level found."""

    level: str  # L0 ... L3
    name: str
    verdict: Literal["passed", "failed", "skipped"]
    figures: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """For the receipt."""
        return asdict(self)

    @property
    def line(self) -> str:
        """For the screen: the verdict and the figures that matter."""
        parts = [f"  {self.level} {tr(self.name)}: {tr(self.verdict)}", *self._said(), self.note]
        return " · ".join(part for part in parts if part)

    def _said(self) -> Iterator[str]:
        figures = self.figures
        if "least_share" in figures:
            yield tr(
                "{adapted} matrices moved (share ≥ {least_share:.3f}, cosine ≥ {least_cosine:.3f}), {untouched} "
                "tensors untouched",
                **figures,
            )
        if "kl_to_tuned" in figures:
            yield tr(
                "KL to base + adapter {kl_to_tuned:.2g}, to the base {kl_to_base_mean:.2g}; {flips} of {positions} "
                "top tokens flipped; another image moves the answer by {image_effect:.2g}",
                **figures,
            )
        if "telling" in figures:
            yield tr("{like_tuned} of {telling} telling answers like base + adapter's", **figures)


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
    pinned: Path | None = None  # interpreter with LM Studio's versions, None: not made


def levels(*, after_commit: bool) -> Iterator[tuple[str, ModuleType]]:
    """(level, module) of those that look before, or after, the folder is at its final place."""
    for found in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        level = re.fullmatch(r"l(\d)_\w+", found)
        module = importlib.import_module(f"{__name__}.{found}") if level else None
        if module and module.AFTER_COMMIT is after_commit:
            yield f"L{found[1]}", module


def run(subject: Subject, *, after_commit: bool = False) -> Iterator[Verdict]:
    """Each level's verdict, as it is found; ends with the first that failed, since the rest would mislead."""
    for level, module in levels(after_commit=after_commit):
        kind, figures, note = module.check(subject)
        yield Verdict(level, module.NAME, kind, figures, note)
        if kind == "failed":
            return
