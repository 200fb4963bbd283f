"""How the time grows: with the tokens (x1, x4, x16), with the length of a row, with the layers of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from medtune.bench import contenders, job, runner
from medtune.bench.figures import Watched
from medtune.bench.job import Work
from medtune.bench.model import ModelSize
from medtune.bench.rows import Mix
from medtune.i18n import tr

NAMES = ("vlm", "plain", "cached")


@dataclass(frozen=True)
class Series:
    """Seconds of one epoch, start-up apart, per contender along one axis."""

    axis: str
    values: list[int]
    columns: dict[str, list[float]]  # contender: seconds
    trunk: list[float]  # seconds of the trunk pass, part of the cached contender's

    @property
    def names(self) -> dict[str, str]:
        """Contenders for people."""
        return {name: contenders.get(name).NAME for name in self.columns}


def series(folder: Path, size: ModelSize, mix: Mix, work: Work, say: Callable[[str], None]) -> list[Series]:
    """Measure along all three axes, from a quarter of the job's rows up to four times as many."""
    work, rows = replace(work, epochs=1), max(mix.train // 4, work_rows(work))
    length = round((mix.shortest * mix.longest) ** 0.5)
    small = replace(mix, train=rows, valid=2 * work.batch_size)
    axes: list[tuple[str, list[tuple[int, ModelSize, Mix]]]] = [
        ("rows", [(n * rows, size, replace(small, train=n * rows)) for n in (1, 4, 16)]),
        ("tokens a row", [(n * length, size, _of_length(small, n * length, rows // n)) for n in (1, 2, 4)]),
        ("layers", [(n * size.layers // 2, replace(size, layers=n * size.layers // 2), small) for n in (1, 2, 4)]),
    ]
    return [_measure(axis, points, folder, work, say) for axis, points in axes]


def work_rows(work: Work) -> int:
    """The fewest rows that make steps to measure."""
    return 8 * work.batch_size


def _of_length(mix: Mix, length: int, rows: int) -> Mix:
    """The same number of tokens in rows of another length."""
    return replace(mix, train=max(rows, 8), shortest=length, longest=length)


def _measure(
    axis: str, points: list[tuple[int, ModelSize, Mix]], folder: Path, work: Work, say: Callable[[str], None]
) -> Series:
    columns: dict[str, list[float]] = {name: [] for name in NAMES}
    trunk = []
    for value, size, mix in points:
        made = job.write(folder, size, mix, work)
        for name in NAMES:
            run = runner.measure(name, made.folder)
            seconds = _epoch(run)
            columns[name].append(seconds)
            say(f"{axis} {value:,}: {contenders.get(name).NAME} {seconds:.1f} s")
            if run["trunk_seconds"]:
                trunk.append(run["trunk_seconds"])
    return Series(axis, [value for value, _, _ in points], columns, trunk)


def _epoch(run: Watched) -> float:
    """Seconds of trunk pass and steps, the first step (whose start is not known) taking as long as the others."""
    ends = run["ends"]
    return round(run["trunk_seconds"] + (ends[-1] - ends[0]) * len(ends) / (len(ends) - 1), 3)


def render(found: list[Series]) -> Group:
    """One table per axis."""
    tables = []
    for one in found:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=tr("seconds of an epoch"), title_justify="left")
        table.add_column(tr(one.axis), justify="right")
        for name in one.names.values():
            table.add_column(name, justify="right")
        table.add_column(tr("of which trunk"), justify="right")
        for index, value in enumerate(one.values):
            cells = [f"{column[index]:.1f}" for column in one.columns.values()]
            table.add_row(f"{value:,}", *cells, f"{one.trunk[index]:.1f}")
        tables.append(table)
    return Group(*tables)


def to_json(found: list[Series]) -> list[dict[str, Any]]:
    """All of it for scaling.json."""
    return [asdict(one) for one in found]
