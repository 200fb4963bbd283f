"""What a proof found, as people read it: a row of the receipt's ``proofs`` -> its name, its figures, its faults.

A receipt of another version may hold a level, a code or a set of figures that is not known here: it is said as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from medtune.deployment import proof
from medtune.deployment.proof import Fault
from medtune.i18n import Lang, Words, language, say, tr

ProofRow = Mapping[str, Any]  # {level, name, verdict, figures, faults}; of an older version {..., note}
PROVE = "make prove"
SAID = 10  # faults in one line; a ruined folder has thousands


def line(row: ProofRow, lang: Lang | None = None, prove: str = PROVE) -> str:
    """For the screen: the verdict, the figures that matter and what is wrong; ``prove``: see ``note``."""
    head = f"  {row['level']} {name(row, lang)}: {tr(row['verdict'], lang)}"
    return " · ".join(part for part in (head, figures(row, lang), note(row, lang, prove)) if part)


def name(row: ProofRow, lang: Lang | None = None) -> str:
    """The level's name."""
    level = _level(row)
    return say(level.NAME, lang) if level else str(row["name"])


def figures(row: ProofRow, lang: Lang | None = None) -> str:
    """The level's sentences for its figures; "" where it has none."""
    level, found = _level(row), row.get("figures") or {}
    said = (_filled(getattr(level, name, None), found, lang) for name in ("FIGURES", "FIGURES_SEEN"))
    return "; ".join(filter(None, said))


def note(row: ProofRow, lang: Lang | None = None, prove: str = PROVE) -> str:
    """Why the level failed or was skipped; an older receipt has said so itself.

    ``prove`` is what one types for this run where a level's sentence says ``make prove``.
    """
    words, faults = getattr(_level(row), "SENTENCES", {}), row.get("faults") or []
    said = [fault(found, words, lang) for found in faults[:SAID]]
    if len(faults) > SAID:
        said.append(tr("and {n} more", lang, n=len(faults) - SAID))
    return ("; ".join(said) or str(row.get("note") or "")).replace(PROVE, prove)


def fault(found: Fault, words: Mapping[str, Words], lang: Lang | None = None) -> str:
    """One fault by its sentence among ``words``."""
    values = {key: value for key, value in found.items() if key != "fault"}
    told = ", ".join(f"{key} {value}" for key, value in values.items())
    return _filled(words.get(found["fault"]), values, lang) or f"{found['fault']} ({told})"


def _level(row: ProofRow) -> ModuleType | None:
    return next((module for _, module in proof.levels() if module.NAME["en"] == row["name"]), None)


def _filled(words: Words | None, values: Mapping[str, Any], lang: Lang | None) -> str:
    """The sentence with its values, a list as its items; "" where there is none or a value it needs is missing."""
    listed = {key: ", ".join(map(str, item)) if isinstance(item, list) else item for key, item in values.items()}
    try:
        return words[lang or language()].format(**listed) if words else ""
    except (KeyError, TypeError, ValueError):  # not there, or no number
        return ""
