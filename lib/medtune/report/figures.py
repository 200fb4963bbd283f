"""The figures of a report: pure drawings of the facts, as PNG for Markdown and as SVG for the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medtune import checks
from medtune.files import Json
from medtune.i18n import Lang
from medtune.metrics import Curve, thin
from medtune.records import DIMENSIONS, Dimension
from medtune.report import comparison, names
from medtune.report.facts import Facts

BLUE, ORANGE, PURPLE, GREY, INK = "#1f6f8b", "#d9822b", "#7a5195", "#9aa5ab", "#1d2529"
DIMENSION_COLOURS = dict(zip(DIMENSIONS, (BLUE, ORANGE, PURPLE), strict=True))
DPI = 160
MOST = 2000  # points of a curve; more the width of a page cannot show
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#c9ced1",
    "axes.labelcolor": "#5a666c",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.unicode_minus": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#eceae3",
    "xtick.color": "#5a666c",
    "ytick.color": "#5a666c",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "path",  # the page needs no font of ours
    "svg.hashsalt": "medtune",  # the same facts, the same bytes
}
# Families with Chinese glyphs, as macOS, Linux and Windows call them; those with mainland forms first.
CHINESE_FONTS = (
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC",
    "STHeiti",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "Noto Sans CJK JP",
    "Heiti TC",
    "Arial Unicode MS",
    "Droid Sans Fallback",
)


@dataclass(frozen=True)
class Labels:
    """The words of a figure, in its language."""

    lang: Lang

    def __call__(self, word: str) -> str:
        """The name of a thing."""
        return names.name(word, self.lang)

    def check(self, kind: str) -> str:
        """The name of a kind of check."""
        return checks.name(kind, self.lang)


Drawing = Callable[[Facts, Labels], Figure | None]


def draw(facts: Facts, lang: Lang) -> dict[str, tuple[bytes, str]]:
    """Every figure the facts allow: name -> (PNG bytes, SVG text)."""
    font = chinese_font() if lang == "zh" else None
    spoken: Lang = lang if lang == "en" or font else "en"  # without a font, English labels and no boxes
    families = [font, "DejaVu Sans"] if font else ["DejaVu Sans"]
    style: dict[Any, Any] = {**STYLE, "font.family": families}
    if not _has_bold(families[0]):
        style["axes.titleweight"] = "normal"  # else matplotlib says on the screen that it has none
    with matplotlib.rc_context(style):
        drawn = {name: drawing(facts, Labels(spoken)) for name, drawing in DRAWINGS.items()}
        return {name: _rendered(figure) for name, figure in drawn.items() if figure is not None}


@cache
def chinese_font() -> str | None:
    """The first family of this system that really has Chinese glyphs."""
    known = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
    for family in CHINESE_FONTS:
        if family in known and font_manager.get_font(known[family]).get_char_index(ord("损")):
            return family
    return None


def _has_bold(family: str) -> bool:
    named = [entry.weight for entry in font_manager.fontManager.ttflist if entry.name == family]
    return any(font_manager.weight_dict.get(str(weight), weight) == 700 for weight in named)


def loss(facts: Facts, say: Labels) -> Figure | None:
    """Train and validation loss over the steps, the best validation marked; the baseline run's in grey."""
    train, valid = thin(facts.history.curve("train", "loss"), MOST), facts.history.curve("valid", "loss")
    if not train and not valid:
        return None
    figure, axes = _figure(7.6, 3.6)
    before = facts.baseline.history.curve("valid", "loss") if facts.baseline else []
    if before:
        axes.plot(*zip(*before, strict=True), color=GREY, linestyle="--", label=say("validation loss of the baseline"))
    if train:
        axes.plot(*zip(*train, strict=True), color=BLUE, alpha=0.85, linewidth=1.2, label=say("Training loss"))
    if valid:
        axes.plot(*zip(*valid, strict=True), color=ORANGE, marker="o", markersize=3.5, label=say("Validation loss"))
        step, best = min(valid, key=lambda point: point[1])
        axes.annotate(
            f"{best:.3f}", (step, best), (0, 9), textcoords="offset points", ha="center", color=ORANGE, weight="bold"
        )
    axes.set(xlabel=say("step"))
    axes.legend(loc="upper right")
    return figure


def dimensions(facts: Facts, say: Labels) -> Figure | None:
    """The validation loss of each dimension."""
    curves: dict[Dimension, Curve] = {dim: facts.history.curve("valid", f"loss_by_dim.{dim}") for dim in DIMENSIONS}
    if not any(curves.values()):
        return None
    figure, axes = _figure(7.6, 3.2)
    for dim, curve in curves.items():
        if curve:
            axes.plot(
                *zip(*curve, strict=True), color=DIMENSION_COLOURS[dim], marker="o", markersize=3.5, label=say(dim)
            )
    axes.set(xlabel=say("step"), ylabel=say("Validation loss"))
    axes.legend(loc="upper right")
    return figure


def compared(facts: Facts, say: Labels) -> Figure | None:
    """Baseline and tuned scores, and their difference with its 95 percent interval."""
    effects = comparison.effects(facts)
    if not effects:
        return None
    figure = Figure(figsize=(7.6, 0.9 + 0.62 * len(effects)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, effect in enumerate(effects):
        left.plot([effect.baseline, effect.tuned], [place, place], color=GREY, linewidth=2, zorder=1)
        left.scatter(effect.baseline, place, s=52, facecolor="white", edgecolor=GREY, linewidth=2, zorder=2)
        left.scatter(effect.tuned, place, s=62, color=BLUE, zorder=3)
        colour = {"better": "#2f855a", "worse": "#c53030", "undecided": GREY}[effect.finding]
        if effect.low is not None and effect.high is not None:
            right.plot([effect.low, effect.high], [place, place], color=colour, linewidth=3, solid_capstyle="round")
        right.scatter(effect.delta, place, s=46, color=colour, zorder=3)
    left.set_yticks(range(len(effects)), [f"{say(effect.name)}  n={effect.n}" for effect in effects])
    left.set(xlim=(-0.02, 1.02), title=f"{say('score')}   ○ {say('baseline')}   ● {say('tuned')}")
    left.invert_yaxis()
    left.margins(y=0.25)
    right.axvline(0, color=INK, linewidth=0.8)
    right.set(title=say("difference, 95% interval"))
    return figure


def checks_met(facts: Facts, say: Labels) -> Figure | None:
    """How often the answers meet each kind of check."""
    kinds = {kind: item for kind, item in (facts.trusted("evaluation.checks") or {}).items() if item.get("n")}
    if not kinds:
        return None
    figure, axes = _figure(7.6, 0.8 + 0.5 * len(kinds))
    for place, item in enumerate(kinds.values()):
        axes.barh(
            place - 0.18, item["baseline"], height=0.32, color="#cfd6d9", label=None if place else say("baseline")
        )
        axes.barh(place + 0.18, item["tuned"], height=0.32, color=BLUE, label=None if place else say("tuned"))
    axes.set_yticks(range(len(kinds)), [f"{say.check(kind)}  n={item['n']}" for kind, item in kinds.items()])
    axes.set(xlim=(0, 1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def shares(facts: Facts, say: Labels) -> Figure | None:
    """What each dimension was meant to be, was computed to be, and was of the training."""
    kinds = {kind: facts.look(f"training.share.{kind}") for kind in ("nominal", "effective", "measured")}
    if not all(kinds.values()):
        return None
    figure, axes = _figure(7.6, 1.9)
    for place, values in enumerate(kinds.values()):
        left = 0.0
        for dim in DIMENSIONS:
            share = values.get(dim, 0.0)
            axes.barh(
                place, share, left=left, height=0.6, color=DIMENSION_COLOURS[dim], label=None if place else say(dim)
            )
            if share > 0.04:
                axes.text(left + share / 2, place, f"{share:.1%}", color="white", ha="center", va="center", size=9)
            left += share
    axes.set_yticks(range(3), [say(kind) for kind in ("nominal", "effective", "trained")])
    axes.set(xlim=(0, 1), xticks=[])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


def deployed(facts: Facts, say: Labels) -> Figure | None:
    """Of each adapted matrix, layer by layer: how much it changed and how much of that the deployed one kept."""
    rows = [row for row in facts.trusted("deployment.layers") or [] if re.search(r"layers\.\d+\.", row["name"])]
    if not rows:
        return None
    kinds: dict[str, list[Json]] = {}
    for row in rows:
        kinds.setdefault(row["name"].rpartition(".")[2], []).append(row)
    figure = Figure(figsize=(7.6, 2.8), layout="constrained")
    panels = {"relative": "change of the weights", "share": "kept of the change", "cosine": "cosine with the change"}
    places = figure.subplots(1, 3)
    for axes, (key, title) in zip(places, panels.items(), strict=True):
        for kind, items in kinds.items():
            layers = [int(re.findall(r"layers\.(\d+)\.", item["name"])[-1]) for item in items]
            axes.plot(layers, [item[key] for item in items], marker="o", markersize=3, label=kind)
        axes.set(xlabel=say("decoder layer"), title=say(title))
        axes.xaxis.get_major_locator().set_params(integer=True)
        if key != "relative":
            axes.set_ylim(min(0.9, *(row[key] for row in rows)), 1.01)
    places[-1].legend(loc="lower right", fontsize=8)
    return figure


DRAWINGS: dict[str, Drawing] = {
    "loss": loss,
    "dimensions": dimensions,
    "comparison": compared,
    "checks": checks_met,
    "shares": shares,
    "deployed": deployed,
}


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _rendered(figure: Figure) -> tuple[bytes, str]:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, for both
    return _png(figure), _svg(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].strip()
