"""The bench as one picture: speed, memory, time over the epochs, and the losses on top of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medtune import files
from medtune.bench.figures import Figures, Watched
from medtune.bench.scaling import Series

GREY, BLUE, TEAL, GREEN, ORANGE, VIOLET = "#8a9296", "#1f6f8b", "#57a0b5", "#7fb069", "#d9822b", "#7a5195"
COLOURS = {"vlm": GREY, "plain": TEAL, "cached": BLUE, "again": GREEN, "lm": ORANGE, "cached_text": VIOLET}
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
DPI = 160


def draw(path: Path, found: Mapping[str, Figures], runs: Mapping[str, Sequence[Watched]]) -> None:
    """Write the picture of a comparison as PNG."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        (speed, memory), (time, loss) = figure.subplots(2, 2)
        _bars(
            speed,
            found,
            {name: one.tokens_per_sec for name, one in found.items()},
            "tokens per second, steady",
            "{:.0f}",
        )
        _bars(
            memory,
            found,
            {name: one.peak / 2**20 for name, one in found.items()},
            "MLX peak while training, MiB",
            "{:.0f}",
        )
        for name, rows in runs.items():
            ends = rows[0]["ends"]
            time.plot(ends, range(1, len(ends) + 1), color=COLOURS[name], label=found[name].name)
        time.set(title="steps done, over seconds from the start", xlim=(0, None), ylim=(0, None))
        time.legend(frameon=False)
        for name in ("vlm", "cached"):
            if name in runs:
                losses = runs[name][0]["losses"]
                width, style = (3.0, "-") if name == "vlm" else (1.0, "-")
                loss.plot(
                    range(1, len(losses) + 1),
                    losses,
                    style,
                    color=COLOURS[name],
                    linewidth=width,
                    label=found[name].name,
                )
        loss.set(title="loss of each step, the same batches")
        loss.legend(frameon=False)
        _save(figure, path)


def _bars(axes: Axes, found: Mapping[str, Figures], values: Mapping[str, float], title: str, form: str) -> None:
    names = list(values)[::-1]
    bars = axes.barh([found[n].name for n in names], [values[n] for n in names], color=[COLOURS[n] for n in names])
    axes.bar_label(bars, fmt=form, padding=3)
    axes.set(title=title)
    axes.margins(x=0.12)


def draw_scaling(path: Path, found: Sequence[Series]) -> None:
    """Write the picture of time against tokens, length and layers as PNG."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        for axes, series in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            for name, column in series.columns.items():
                axes.plot(series.values, column, marker="o", color=COLOURS[name], label=series.names[name])
            axes.set(
                title=f"seconds of an epoch against {series.axis}", xscale="log", xticks=series.values, ylim=(0, None)
            )
            axes.set_xticks(series.values, [f"{value:,}" for value in series.values])
            axes.minorticks_off()
            axes.legend(frameon=False)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with files.atomic(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})
