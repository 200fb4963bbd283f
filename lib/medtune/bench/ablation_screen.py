"""An ablation in words and tables: on a terminal, and as a page."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from medtune.files import Json
from medtune.i18n import tr


def table(results: Json) -> list[list[str]]:
    """Rows of text: head, dimensions, overall; scores 0 to 1 and their difference with its 95 % interval."""
    rows = [[tr("dimension"), tr("items"), tr("without"), tr("with"), tr("change"), tr("95 % interval"), "p"]]
    parts: Mapping[str, Json] = {**results["dimensions"], "overall": results["overall"]}
    for name, n in parts.items():
        p = n.get("p_holm", n["p"])
        rows.append(
            [
                tr(name),
                str(n["n"]),
                f"{n['baseline']:.3f}",
                f"{n['tuned']:.3f}",
                f"{n['delta']:+.3f}",
                f"{n['ci_low']:+.3f} … {n['ci_high']:+.3f}",
                "<0.001" if p < 0.001 else f"{p:.3f}",
            ]
        )
    return rows


def learned(results: Json) -> list[list[str]]:
    """Rows of text: what each run's validation says."""
    rows = [[tr("run"), tr("best validation loss"), tr("reward margin"), tr("trunk s"), tr("training s")]]
    for name, run in results["runs"].items():
        margin = "" if run["reward_margin"] is None else f"{run['reward_margin']:+.3f}"
        seconds = (f"{run['trunk_seconds']:.1f}", f"{run['train_seconds']:.1f}")
        rows.append([tr(name), f"{run['val_loss']:.4f}", margin, *seconds])
    return rows


def sentence(results: Json) -> str:
    """The finding in words: what the interval of the whole allows to say."""
    overall = results["overall"]
    if overall["ci_low"] > 0:
        return tr("The penalty term makes the answers better, by {delta:+.3f} on the whole.", delta=overall["delta"])
    if overall["ci_high"] < 0:
        return tr("The penalty term makes the answers worse, by {delta:+.3f} on the whole.", delta=overall["delta"])
    return tr(
        "No difference beyond chance on the whole; with these items one of about {least:.3f} would be found in four "
        "of five repetitions.",
        least=overall["detectable"],
    )


def render(results: Json) -> RenderableType:
    """Both tables and the finding for a terminal."""
    tables: list[RenderableType] = []
    for head, *rows in (learned(results), table(results)):
        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, name in enumerate(head):
            drawn.add_column(name, justify="right" if index else "left")
        for row in rows:
            drawn.add_row(*row)
        tables.append(drawn)
    return Group(*tables, sentence(results))


def markdown(results: Json) -> str:
    """The same as a page."""
    parts = [f"# {tr('What the penalty term does')}", sentence(results)]
    parts.append(
        tr(
            "The same settings, seed, data and trunk cache twice: objective.negatives {negatives} against off. Scores "
            "0 to 1 on the test split, greedy answers, items paired; p of the dimensions by Holm.",
            negatives=results["negatives"],
        )
    )
    parts += [_markdown(table(results)), _markdown(learned(results))]
    moved = results["migration"]
    parts.append(
        tr("fully right: {fixed} fixed, {regressed} regressed, {kept} kept, {still_wrong} still wrong", **moved)
    )
    return "\n\n".join(parts) + "\n"


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])
