"""A run's progress on a terminal: a living screen, or dense lines where there is no terminal."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from medtune.i18n import tr
from medtune.metrics import Curve, Metric
from medtune.monitor import plot
from medtune.monitor.status import Status, latest, time_of
from medtune.progress import duration
from medtune.records import DIMENSIONS

COLOURS = {
    "waiting": "grey62",
    "preparing": "yellow",
    "running": "green",
    "stalled": "red",
    "stopped": "yellow",
    "finished": "cyan",
}
TRAIN, VALID = "steel_blue1", "orange1"
WIDE = 72  # columns from which the two tables stand side by side
ROOMY = 34  # lines from which there is room for air and the last events
TABLES = {True: 8, False: 15}  # lines of the tables side by side, and one below the other
PLOT = (3, 14)  # fewest and most lines of the plot
EVENTS_SHOWN = 4


class Screen:
    """The whole screen of one moment, as wide as the console, and no higher than ``height`` lines from 20 on."""

    def __init__(self, now: Status, height: int = 40):
        self.now = now
        self.height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - 4
        roomy = self.height >= ROOMY
        air = [""] if roomy else []
        parts: list[RenderableType] = [_headline(self.now)]
        if self.now.total:
            parts.append(_bar(self.now, width))
        if self.now.history.of("train") or self.now.history.of("valid"):
            rest = 7 + TABLES[width >= WIDE] + (3 + EVENTS_SHOWN if roomy else 0)
            rows = max(PLOT[0], min(PLOT[1], self.height - rest))
            parts += [*air, _curves(self.now, width, rows), *air, _tables(self.now, width)]
        if roomy and self.now.history.of("event"):
            parts += [*air, _events(self.now)]
        colour = COLOURS[self.now.state]
        title = Text.assemble(("medtune ", "bold"), (self.now.run, "bold cyan"), (f" · {tr(self.now.state)}", colour))
        yield Panel(Group(*parts), title=title, title_align="left", border_style=colour, padding=(0, 1))


def _headline(now: Status) -> Text:
    text = Text(now.note, style=COLOURS[now.state])
    if now.silent is not None and now.state == "running":
        text.append(tr(" · last line {silence} ago", silence=duration(now.silent)), style="grey62")
    return text


def _bar(now: Status, width: int) -> Table:
    times = f"{now.fraction:.0%}  {duration(now.elapsed or 0)}"
    if now.eta is not None:
        times += tr(" · {eta} to go", eta=duration(now.eta))
    grid = Table.grid(padding=(0, 1))
    count = f"{now.step}/{now.total}"
    room = max(8, width - len(count) - Text(times).cell_len - 4)
    bar = ProgressBar(total=now.total, completed=now.step, width=room, complete_style=COLOURS[now.state])
    grid.add_row(count, bar, times)
    return grid


def _curves(now: Status, width: int, rows: int) -> Group:
    """The train and the validation loss over the steps, with the frame's figures at its edges."""
    curves = [now.history.curve("train", "loss"), now.history.curve("valid", "loss")]
    frame = plot.Frame.around(curves)
    if frame is None:
        return Group()
    label = max(len(f"{frame.high:.3f}"), len(f"{frame.low:.3f}"))
    cells = plot.draw(curves, max(8, width - label - 2), rows)
    lines = [
        Text.assemble((_tick(number, rows, frame).rjust(label), "grey62"), (" ┤", "grey39"), *_coloured(row))
        for number, row in enumerate(cells)
    ]
    left, right = f"{frame.left:.0f}", tr("step {step}", step=f"{frame.right:.0f}")
    space = max(1, width - label - 2 - len(left) - Text(right).cell_len)
    lines.append(Text(" " * (label + 2) + left + " " * space + right, style="grey62"))
    legend = Text.assemble((tr("loss") + "  ", "bold"), ("● ", TRAIN), tr("train"), ("  ● ", VALID), tr("validation"))
    return Group(legend, *lines)


def _tick(number: int, rows: int, frame: plot.Frame) -> str:
    """The value at this row of the plot, at its top, middle and bottom."""
    if number not in (0, rows // 2, rows - 1):
        return ""
    return f"{frame.high - (frame.high - frame.low) * number / max(1, rows - 1):.3f}"


def _coloured(row: list[plot.Cell]) -> list[tuple[str, str]]:
    return [(char, (TRAIN, VALID)[who] if who is not None else "") for char, who in row]


def _tables(now: Status, width: int) -> RenderableType:
    losses, speed = _losses(now), _speed(now)
    if width < WIDE:
        return Group(losses, "", speed)
    grid = Table.grid(expand=True)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(losses, speed)
    return grid


def _losses(now: Status) -> Table:
    """First, best and last validation loss and the last train loss, for all and for each dimension."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="grey62")
    table.add_column(tr("loss"))
    for name in (tr("train"), tr("first"), tr("best"), tr("last")):
        table.add_column(name, justify="right")
    history = now.history
    for label, key in [(tr("all"), "loss"), *((tr(dim), f"loss_by_dim.{dim}") for dim in DIMENSIONS)]:
        train, valid = history.curve("train", key), history.curve("valid", key)
        if train or valid:
            lowest = min((value for _, value in valid), default=None)
            table.add_row(label, *map(_loss, (_end(train), _end(valid[:1]), lowest, _end(valid))))
    return table


def _end(curve: Curve) -> float | None:
    return curve[-1][1] if curve else None


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _speed(now: Status) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="grey62")
    table.add_column(justify="right")
    figures = latest(now.history)
    for name, value in _figures(figures["train"]):
        table.add_row(name, value)
    if figures["checkpoint"]:
        table.add_row(tr("last checkpoint"), figures["checkpoint"].get("file", ""))
    if figures["best"]:
        table.add_row(tr("best validation"), tr("step {step}", step=figures["best"]["step"]))
    return table


def _figures(train: Metric) -> list[tuple[str, str]]:
    shown: list[tuple[str, str, str]] = [
        (tr("speed"), "it_per_sec", "{:.2f} it/s"),
        (tr("tokens"), "tokens_per_sec", "{:,.0f} tok/s"),
        (tr("learning rate"), "lr", "{:.2e}"),
        (tr("gradient norm"), "grad_norm", "{:.3f}"),
        (tr("peak memory"), "peak_memory_gb", "{:.2f} GB"),
        (tr("padding"), "padding_fraction", "{:.1%}"),
    ]
    return [(name, form.format(train[key])) for name, key, form in shown if train.get(key) is not None]


def _events(now: Status) -> Group:
    return Group(*(Text(line(row), style="grey62") for row in now.history.of("event")[-EVENTS_SHOWN:]))


def line(row: Metric) -> str:
    """One row of metrics.jsonl as one dense line."""
    written = time_of(row)
    clock = "" if written is None else datetime.fromtimestamp(written).strftime("%H:%M:%S")
    words = [clock, f"{tr(row['kind'])} {row['step']}"]
    if row["kind"] in ("train", "valid"):
        words += [f"loss {row['loss']:.4f}"] if row.get("loss") is not None else []
        words += [f"{dim} {loss:.4f}" for dim, loss in (row.get("loss_by_dim") or {}).items() if loss is not None]
    if row["kind"] == "train":
        words += [value if value.endswith("/s") else f"{name} {value}" for name, value in _figures(row)]
    if row["kind"] == "checkpoint":
        words += [row.get("file", "")] + ([tr("best")] if row.get("best") else [])
    if row["kind"] == "event":
        words += [tr(row.get("name", "").replace("_", " ")), row.get("text") or ""]
    return "  ".join(word for word in words if word)


def summary(now: Status) -> list[str]:
    """One moment in a few dense lines: where it stands, then the newest row of each kind."""
    head = f"{now.run}: {tr(now.state)}"
    if now.total:
        head += f", {now.step}/{now.total} ({now.fraction:.0%})"
    if now.eta is not None:
        head += tr(" · {eta} to go", eta=duration(now.eta))
    newest: dict[str, Any] = latest(now.history)
    rows = [newest[kind] for kind in ("train", "valid", "checkpoint") if newest[kind]]
    return [head, now.note, *(line(row) for row in rows)]
