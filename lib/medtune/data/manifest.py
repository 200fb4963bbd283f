"""The manifest's figures: how much of what is in which split of a data set, and what was rejected."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.data.licenses import strictest
from medtune.data.preparation import Entry
from medtune.data.rejections import Rejections
from medtune.data.sources import SourceFile
from medtune.dataset import mark
from medtune.i18n import tr
from medtune.model.base import Base
from medtune.records import DIMENSIONS, SPLITS

BINS = 12


def encoded_with(base: Base) -> dict[str, Any]:
    """``tokenizer``, ``processor`` and ``template_hash``: with what the records were counted."""
    return {
        "tokenizer": {"name": base.name, "hash": base.tokenizer_hash},
        "processor": {"hash": base.processor_hash},
        "template_hash": base.template_hash,
    }


def results(
    entries: Sequence[Entry], assigned: Sequence[str], found: Sequence[SourceFile], rejections: Rejections
) -> dict[str, Any]:
    """``splits``, ``histogram``, ``max_tokens``, ``rejected``, ``sources`` and ``license``."""
    by_split: dict[str, list[Entry]] = {name: [] for name in SPLITS}
    for entry, split in zip(entries, assigned, strict=True):
        by_split[split].append(entry)
    longest = max(entry.count.tokens for entry in entries)
    edges = bin_edges(longest)
    return {
        "splits": {name: split_facts(part) for name, part in by_split.items()},
        "histogram": {"edges": edges, **{name: _histogram(part, edges) for name, part in by_split.items()}},
        "max_tokens": longest,
        "rejected": rejections.summary(),
        "sources": _sources(entries, found, rejections),
        "license": strictest({entry.license for entry in entries}),
    }


def split_facts(entries: Sequence[Entry]) -> dict[str, Any]:
    """The manifest's facts of one split."""
    return {
        "records": len(entries),
        "tokens": sum(entry.count.tokens for entry in entries),
        "image_tokens": sum(entry.count.image_tokens for entry in entries),
        "supervised_tokens": sum(entry.count.supervised for entry in entries),
        "dimensions": {dim: _kinds([entry for entry in entries if entry.dim == dim]) for dim in DIMENSIONS},
    }


def _kinds(entries: Sequence[Entry]) -> dict[str, int]:
    return {
        "desirable": sum(entry.label == 1 for entry in entries),
        "undesirable": sum(entry.label == 0 for entry in entries),
        "marked": sum(entry.marked for entry in entries),
    }


def bin_edges(longest: int) -> list[int]:
    """Edges of at most 12 bins of a round width, from 0 to beyond ``longest`` tokens."""
    widths = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    width = next(width for width in widths if width * BINS > longest)
    return list(range(0, (longest // width + 2) * width, width))


def _histogram(entries: Sequence[Entry], edges: Sequence[int]) -> list[int]:
    """Records per bin; bin i holds edges[i] <= tokens < edges[i + 1]."""
    counts = Counter(bisect_right(edges, entry.count.tokens) - 1 for entry in entries)
    return [counts[index] for index in range(len(edges) - 1)]


def _sources(entries: Sequence[Entry], found: Sequence[SourceFile], rejections: Rejections) -> list[dict[str, Any]]:
    records = Counter(entry.source for entry in entries)
    licenses: dict[Path, set[str]] = {source.path: set() for source in found}
    for entry in entries:
        licenses[entry.source].add(entry.license)
    return [
        {
            "path": mark(str(source.path)),
            "layout": source.layout.NAME,
            "license": strictest(licenses[source.path]),
            "records": records[source.path],
            "rejected": rejections.sources[source.path],
        }
        for source in found
    ]


def warnings(results: Mapping[str, Any]) -> list[str]:
    """One sentence for each split that is left without any record of a dimension the data set has."""
    parts = results["splits"]
    present = [dim for dim in DIMENSIONS if any(_any(part, dim) for part in parts.values())]
    return [
        tr("{split} has no {dim} record: its figures will be missing", split=name, dim=tr(dim))
        for name, part in parts.items()
        for dim in present
        if not _any(part, dim)
    ]


def _any(part: Mapping[str, Any], dim: str) -> bool:
    kinds = part["dimensions"][dim]
    return kinds["desirable"] + kinds["undesirable"] > 0
