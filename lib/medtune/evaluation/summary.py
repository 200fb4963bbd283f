"""Scores -> figures: per dimension and overall the difference with its interval, what changed, and the gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from medtune.evaluation import statistics
from medtune.evaluation.gate import gate
from medtune.evaluation.scoring import Judged, Scored, mean
from medtune.evaluation.statistics import Pair
from medtune.files import Json
from medtune.records import DIMENSIONS
from medtune.schemas import EvalConfig


def evaluate(judged: Sequence[Judged], priorities: Mapping[str, float], config: EvalConfig) -> Json:
    """The measured part of evaluation.json's results, from the judged items of both splits.

    ``priorities`` are the weights of the dimensions in the training; test items alone enter the figures.
    """
    test = [one for one in judged if one.item.split == "test"]
    pairs = [Pair(one.baseline.score, one.tuned.score, one.item.cluster, one.item.dim) for one in test]
    dimensions = {
        dim: asdict(statistics.compare(chosen, seed=config.seed))
        for dim in DIMENSIONS
        if (chosen := [pair for pair in pairs if pair.stratum == dim])
    }
    for dim, p in statistics.holm({dim: numbers["p"] for dim, numbers in dimensions.items()}).items():
        dimensions[dim]["p_holm"] = p
    checks = by_kind(test)
    return {
        "items": len(test),
        "dimensions": dimensions,
        "overall": asdict(statistics.compare(pairs, _usable(priorities, dimensions), seed=config.seed)),
        "checks": checks,
        "migration": migration(test),
        "recommended": [_recommended(one) for one in judged if one.item.split == "recommended"],
        "truncated": {name: sum(side.finish == "length" for side in _sides(test, name)) for name in SIDES},
        "gate": gate(dimensions, checks, config.gate),
    }


SIDES = ("baseline", "tuned")


def _sides(judged: Sequence[Judged], name: str) -> list[Scored]:
    return [getattr(one, name) for one in judged]


def _usable(priorities: Mapping[str, float], measured: Mapping[str, Json]) -> Mapping[str, float] | None:
    """The priorities, or None (all alike) where only dimensions of weight 0 were measured."""
    return priorities if any(priorities.get(dim, 0) > 0 for dim in measured) else None


def by_kind(judged: Sequence[Judged]) -> dict[str, Json]:
    """Per kind of check and model: mean mark, fully passed checks, and answers without a verdict one could read."""
    kinds = sorted({mark.kind for one in judged for mark in one.baseline.marks})
    found = {}
    for kind in kinds:
        marks = {name: [mark for side in _sides(judged, name) for mark in side.of_kind(kind)] for name in SIDES}
        found[kind] = {
            "n": len(marks["tuned"]),
            **{name: mean([mark.value for mark in of]) for name, of in marks.items()},
            "passed": {name: sum(mark.value >= 1 for mark in of) for name, of in marks.items()},
            "unread": {name: sum(mark.unread for mark in of) for name, of in marks.items()},
        }
    return found


def migration(judged: Sequence[Judged]) -> dict[str, int]:
    """How many items went from wrong to fully right and back; right is: every check satisfied."""
    names = {(False, True): "fixed", (True, False): "regressed", (True, True): "kept", (False, False): "still_wrong"}
    moved = Counter(names[one.baseline.right, one.tuned.right] for one in judged)
    return {name: moved[name] for name in names.values()}


def _recommended(one: Judged) -> Json:
    pairs = zip(one.baseline.marks, one.tuned.marks, strict=True)
    checks: dict[str, Json] = {}
    times: Counter[str] = Counter()
    for before, after in pairs:
        times[before.kind] += 1
        name = before.kind if times[before.kind] == 1 else f"{before.kind}_{times[before.kind]}"
        checks[name] = {"baseline": before.value, "tuned": after.value}
    return {
        "id": one.item.id,
        "question": one.item.question,
        "image": str(one.item.images[0]) if one.item.images else None,
        "expect": one.item.expect,
        "baseline": one.baseline.answer,
        "tuned": one.tuned.answer,
        "checks": checks,
    }
