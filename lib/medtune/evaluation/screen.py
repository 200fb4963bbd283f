"""An evaluation on the screen: base against tuned, what each check found, and the recommended answers."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from medtune import checks
from medtune.evaluation.gate import sentence
from medtune.evaluation.statistics import wilson
from medtune.files import Json
from medtune.i18n import tr
from medtune.records import IMAGE_MARKER

FEW = 30  # items: below, a dimension's figures are only a hint


def show(results: Json, console: Console | None = None) -> None:
    """Print everything a person wants to know of an evaluation."""
    console = console or Console()
    console.print(_dimensions(results))
    console.print(_kinds(results["checks"]))
    for case in results["recommended"]:
        console.print(_case(case))
    for line in _notes(results):
        console.print(line)
    console.print(_verdict(results["gate"]))


def _dimensions(results: Json) -> Table:
    table = Table(title=tr("Score 0 to 1 on the test split, tuned against baseline"), title_justify="left")
    table.add_column(tr("dimension"))
    for name in ("items", "baseline", "tuned", "change", "95 % interval", "p"):
        table.add_column(tr(name), justify="right", no_wrap=True)
    for dim, numbers in results["dimensions"].items():
        few = "" if numbers["n"] >= FEW else " *"
        table.add_row(tr(dim) + few, *_cells(numbers, numbers["p_holm"]))
    table.add_section()
    table.add_row(tr("overall"), *_cells(results["overall"], results["overall"]["p"]), style="bold")
    table.caption = tr("p: of no difference, dimensions by Holm; overall: weighted by the priorities of the training")
    if any(numbers["n"] < FEW for numbers in results["dimensions"].values()):
        table.caption += "\n" + tr("* fewer than {few} items: a hint, not a measurement", few=FEW)
    table.caption_justify = "left"
    return table


def _cells(numbers: Json, p: float) -> list[RenderableType]:
    low, high = numbers["ci_low"], numbers["ci_high"]
    color = "green" if low > 0 else "red" if high < 0 else ""
    return [
        str(numbers["n"]),
        f"{numbers['baseline']:.3f}",
        f"{numbers['tuned']:.3f}",
        Text(f"{numbers['delta']:+.3f}", style=color),
        f"{low:+.3f} … {high:+.3f}",
        "<0.001" if p < 0.001 else f"{p:.3f}",
    ]


def _kinds(measured: dict[str, Json]) -> Table:
    table = Table(title=tr("Checks fully passed"), title_justify="left")
    table.add_column(tr("check"))
    for name in ("times", "baseline", "tuned", "95 % interval", "unreadable"):
        table.add_column(tr(name), justify="right", no_wrap=True)
    for kind, numbers in measured.items():
        n, passed = numbers["n"], numbers["passed"]
        low, high = wilson(passed["tuned"], n)
        style = "red" if passed["tuned"] < passed["baseline"] else ""
        unread = str(numbers["unread"]["tuned"]) if any(numbers["unread"].values()) else ""
        rate = Text(f"{passed['tuned'] / n:.0%}", style=style)
        name, before = checks.name(kind), f"{passed['baseline'] / n:.0%}"
        table.add_row(name, str(n), before, rate, f"{low:.0%} … {high:.0%}", unread)
    return table


def _case(case: Json) -> Panel:
    lines: list[RenderableType] = [
        Text(case["question"].replace(IMAGE_MARKER, f"[{case['image']}] "), style="bold"),
        Text(f"{tr('expected')}: {case['expect']}", style="dim"),
    ]
    for side in ("baseline", "tuned"):
        passed = sum(marks[side] >= 1 for marks in case["checks"].values())
        head = f"{tr(side)} {passed}/{len(case['checks'])}  "
        missed = [checks.name(kind) for kind, marks in case["checks"].items() if marks[side] < 1]
        tail = f"  ({tr('missed')}: {', '.join(missed)})" if missed else ""
        lines.append(Text.assemble((head, "cyan"), case[side] or tr("(nothing)"), (tail, "yellow")))
    return Panel(Group(*lines), title=case["id"], title_align="left")


def _notes(results: Json) -> list[str]:
    moved, cut = results["migration"], results["truncated"]
    notes = [
        tr("fully right: {fixed} fixed, {regressed} regressed, {kept} kept, {still_wrong} still wrong", **moved),
        tr(
            "with these items a difference of about {least:.3f} would be found in four of five repetitions",
            least=results["overall"]["detectable"],
        ),
    ]
    if any(cut.values()):
        notes.append(tr("cut off at max_tokens: {baseline} baseline answers, {tuned} tuned answers", **cut))
    return notes


def _verdict(gate: Json) -> Text:
    lines = [tr("gate: passed") if gate["passed"] else tr("gate: not passed")]
    lines += map(sentence, gate["failures"])
    if gate["unmeasured"]:
        kinds = ", ".join(map(checks.name, gate["unmeasured"]))
        lines.append(tr("not measured, since no item has such a check: {kinds}", kinds=kinds))
    return Text("\n  ".join(lines), style="bold green" if gate["passed"] else "bold red")
