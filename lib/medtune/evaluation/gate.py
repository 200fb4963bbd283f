"""May the tuned model be deployed? What was measured against what is wanted, as facts; a sentence when one is shown."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from medtune import checks
from medtune.evaluation.statistics import wilson
from medtune.files import Json
from medtune.i18n import Lang, tr
from medtune.schemas import Gate


def gate(dimensions: Mapping[str, Json], kinds: Mapping[str, Json], wanted: Gate) -> Json:
    """``passed``; ``failures``, a fact for every condition that is not met; ``unmeasured`` kinds of checks.

    ``dimensions`` and ``kinds`` of checks are those of evaluation.json. A condition passes when its figure reaches
    what is wanted: one that is missing or is no number does not. A dimension without items is not judged, nor is a
    kind of check that no item has; the latter are named.
    """
    lows = {dim: _number(figures.get("ci_low")) for dim, figures in dimensions.items()}
    failures = [_dimension(dim, low, getattr(wanted, dim)) for dim, low in lows.items()]
    failures.append(_superior(lows, wanted.superior))
    failures += [_pass_rate(kind, kinds[kind], least) for kind, least in wanted.pass_rate.items() if kind in kinds]
    found = [failure for failure in failures if failure is not None]
    unmeasured = [kind for kind in wanted.pass_rate if kind not in kinds]
    return {"passed": not found, "failures": found, "unmeasured": unmeasured}


def sentence(failure: Json | str, lang: Lang | None = None) -> str:
    """A failure in words; the sentence itself of an evaluation made when the gate still stored sentences."""
    if isinstance(failure, str):
        return failure
    return _SENTENCES[failure["kind"]](failure, lang)


def _number(value: Any) -> float | None:
    """A figure one can compare; None of what is missing or not finite, which JSON could not hold either."""
    return value if isinstance(value, int | float) and isfinite(value) else None


def _reaches(value: float | None, least: float) -> bool:
    return value is not None and value >= least


def _dimension(dim: str, low: float | None, least: float) -> Json | None:
    return None if _reaches(low, least) else {"kind": "dimension", "dim": dim, "low": low, "wanted": least}


def _superior(lows: Mapping[str, float | None], wanted: int) -> Json | None:
    """A dimension is better beyond chance where its whole interval lies above 0; all of those measured are enough."""
    better = sum(low is not None and low > 0 for low in lows.values())
    return None if better >= min(wanted, len(lows)) else {"kind": "superior", "better": better, "wanted": wanted}


def _pass_rate(kind: str, figures: Json, least: float) -> Json | None:
    passed, n = _number(figures.get("passed", {}).get("tuned")), _number(figures.get("n"))
    rate = passed / n if passed is not None and n else None
    if _reaches(rate, least):
        return None
    low, high = (None, None) if rate is None else wilson(int(passed or 0), int(n or 0))
    return {"kind": "pass_rate", "check": kind, "passed": passed, "n": n, "low": low, "high": high, "wanted": least}


def _of_dimension(failure: Json, lang: Lang | None) -> str:
    dim, low, least = tr(failure["dim"], lang), failure["low"], failure["wanted"]
    if low is None:
        return _missing(dim, lang)
    return tr(
        "{dim}: the difference may be as low as {low:+.3f}, {least:+.3f} is wanted", lang, dim=dim, low=low, least=least
    )


def _of_superior(failure: Json, lang: Lang | None) -> str:
    return tr(
        "{better} dimensions are better beyond chance, {wanted} are wanted",
        lang,
        better=failure["better"],
        wanted=failure["wanted"],
    )


def _of_pass_rate(failure: Json, lang: Lang | None) -> str:
    name = checks.name(failure["check"], lang)
    if failure["low"] is None:
        return _missing(name, lang)
    return tr(
        "{check}: {passed} of {n} passed ({low:.0%} to {high:.0%}), {wanted:.0%} are wanted",
        lang,
        **{**failure, "check": name},
    )


def _missing(name: str, lang: Lang | None) -> str:
    return tr("{name}: its figure is missing; measure it again", lang, name=name)


_SENTENCES = {"dimension": _of_dimension, "superior": _of_superior, "pass_rate": _of_pass_rate}
