"""Layouts of raw data: one file each, found by being here.

A layout module has ``NAME``, ``KEYS`` (what its rows must have, for the message that says so), ``matches(row)`` and
``convert(row)``, which yields one draft or more (see ``medtune.data.turns``). A new layout is a new file, and its
row to ROWS in tests/test_layouts.py.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Protocol, cast

from medtune.data.layouts import record
from medtune.data.turns import Draft
from medtune.errors import UserError
from medtune.i18n import tr

SAMPLE = 200  # rows a layout is recognised by
SHARE = 0.95  # of them that must match


class Layout(Protocol):
    """What a module of this package offers."""

    NAME: str
    KEYS: tuple[str, ...]

    def matches(self, row: Any) -> bool:
        """Whether the row has this layout's keys."""
        ...

    def convert(self, row: Any) -> Iterable[Draft]:
        """The drafts of a row that matches; raises ``Rejected``."""
        ...


@cache
def known() -> dict[str, Layout]:
    """All layouts by name, the most specific (most keys) first."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    layouts = [cast(Layout, module) for module in modules]
    return {layout.NAME: layout for layout in sorted(layouts, key=lambda one: (-len(one.KEYS), one.NAME))}


def named(name: str) -> Layout:
    """The layout called ``name``."""
    if name not in known():
        raise UserError(
            tr("layout {name}: no such layout; there are auto, {names}", name=name, names=", ".join(known()))
        )
    return known()[name]


def detect(rows: Sequence[Any]) -> Layout:
    """The most specific layout that at least 95 percent of the first 200 rows match; never a guess.

    One row of medtune's own form decides for it: as another layout, the file would lose what the row says.
    The UserError says which keys were found and what the nearest layout needs; the caller knows the file's name.
    """
    sample = rows[:SAMPLE]
    own = known()[record.NAME]
    if any(map(record.is_own, sample)) and _most(sample, own.matches):
        _refuse_unknown_keys(sample)
        return own
    for layout in known().values():
        if _most(sample, layout.matches):
            return layout
    raise UserError(
        tr(
            "no known layout fits: its rows have {keys}; {hint}. Rename the keys, name the layout of this source in "
            "data.yaml, or add a file to lib/medtune/data/layouts",
            keys=_keys_of(sample),
            hint=_hint(sample),
        )
    )


def _most(sample: Sequence[Any], holds: Callable[[Any], bool]) -> bool:
    return bool(sample) and sum(map(holds, sample)) >= SHARE * len(sample)


def _refuse_unknown_keys(sample: Sequence[Any]) -> None:
    """A few rows with keys no record has are rejected as they come; where there are many, the person hears at once."""
    if not _most(sample, lambda row: not record.unknown(row)):
        marks = {mark for row in sample for mark in record.marks(row)} or set(record.KEYS)
        unknown = dict.fromkeys(key for row in sample for key in record.unknown(row))
        raise UserError(
            tr(
                "its rows are of medtune's own form ({marks}) and have keys it does not know: {unknown}. Correct them, "
                "or name the layout of this source in data.yaml",
                marks=", ".join(sorted(marks)),
                unknown=", ".join(unknown),
            )
        )


def _keys_of(sample: Sequence[Any]) -> str:
    counts = Counter(key for row in sample if isinstance(row, dict) for key in row)
    kinds = Counter(type(row).__name__ for row in sample if not isinstance(row, dict))
    found = [f"{key} ({count * 100 // len(sample)} %)" for key, count in [*counts.most_common(12), *kinds.items()]]
    return ", ".join(found) or tr("no key at all")


def _hint(sample: Sequence[Any]) -> str:
    """What the nearest layout (most of its keys found) would need."""
    found = {str(key) for row in sample if isinstance(row, dict) for key in row}
    nearest = max(known().values(), key=lambda layout: len(found & set(layout.KEYS)) / len(layout.KEYS))
    if not found & set(nearest.KEYS):
        lists = "; ".join(f"{layout.NAME}: {' + '.join(layout.KEYS)}" for layout in known().values())
        return tr("the known layouts are {lists}", lists=lists)
    lacking = [key for key in nearest.KEYS if key not in found]
    return tr(
        "the nearest, {name}, needs {keys} in 95 % of the rows",
        name=nearest.NAME,
        keys=" + ".join(lacking or nearest.KEYS),
    )
