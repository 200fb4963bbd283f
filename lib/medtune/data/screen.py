"""The summary of a data set on the screen: records by split and dimension, lengths, what was rejected and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from medtune.data import manifest
from medtune.data.rejections import sentence
from medtune.i18n import tr
from medtune.records import DIMENSIONS, SPLITS


def show(results: Mapping[str, Any], first: Mapping[str, str], console: Console) -> None:
    """Print the manifest's results; ``first`` is the place (file:line) of each reason's first rejected row."""
    console.print(_records(results["splits"]))
    console.print(_tokens(results["splits"]))
    console.print(_lengths(results["histogram"]))
    if results["rejected"]["total"]:
        console.print(_rejected(results["rejected"]["reasons"], first))
    license = tr("license of the whole, the strictest of its sources: {license}", license=results["license"])
    console.print(license, highlight=False, soft_wrap=True)
    for warning in manifest.warnings(results):
        console.print(f"[yellow]{tr('warning')}[/yellow]: {warning}", highlight=False, soft_wrap=True)


def _table(title: str, *headings: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    return table


def _records(splits: Mapping[str, Any]) -> Table:
    headings = (tr("split"), tr("dimension"), tr("records"), tr("desirable"), tr("undesirable"), tr("marked wrong"))
    table = _table(tr("Records"), *headings)
    table.columns[1].justify = "left"
    for name in SPLITS:
        rows = [splits[name]["dimensions"][dim] for dim in DIMENSIONS]
        for index, (dim, kinds) in enumerate(zip(DIMENSIONS, rows, strict=True)):
            table.add_row(name if index == 0 else "", tr(dim), *_counts(kinds))
        everything = {kind: sum(kinds[kind] for kinds in rows) for kind in rows[0]}
        table.add_row("", tr("all"), *_counts(everything), style="bold", end_section=True)
    return table


def _counts(kinds: Mapping[str, int]) -> list[str]:
    counts = [kinds["desirable"] + kinds["undesirable"], kinds["desirable"], kinds["undesirable"], kinds["marked"]]
    return [f"{count:,}" for count in counts]


def _tokens(splits: Mapping[str, Any]) -> Table:
    table = _table(tr("Tokens"), tr("split"), tr("all"), tr("of images"), tr("supervised"), tr("mean of a record"))
    for name in SPLITS:
        part = splits[name]
        sums = [part["tokens"], part["image_tokens"], part["supervised_tokens"]]
        mean = part["tokens"] / max(part["records"], 1)
        table.add_row(name, *(f"{count:,}" for count in sums), f"{mean:,.1f}")
    return table


def _lengths(histogram: Mapping[str, list[int]]) -> Table:
    edges = histogram["edges"]
    totals = [sum(counts) for counts in zip(*(histogram[name] for name in SPLITS), strict=True)]
    table = _table(tr("Records by length"), tr("length in tokens"), *SPLITS, "")
    for index, total in enumerate(totals):
        span = f"{edges[index]:,}-{edges[index + 1] - 1:,}"
        bar = Bar(max(totals), 0, total, width=30, color="cyan")
        table.add_row(span, *(f"{histogram[name][index]:,}" for name in SPLITS), bar)
    return table


def _rejected(reasons: Mapping[str, int], first: Mapping[str, str]) -> Table:
    table = _table(tr("Rejected rows, all in rejected.jsonl"), tr("reason"), tr("rows"), tr("the first"))
    table.columns[2].justify, table.columns[2].overflow = "left", "fold"
    for reason, count in reasons.items():
        table.add_row(sentence(reason), f"{count:,}", first[reason])
    return table
