"""The bench on a terminal: one table of figures, one of ratios with their bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medtune.bench.figures import Figures, Ratio
from medtune.bench.job import Job
from medtune.files import megabytes
from medtune.i18n import tr


def render(job: Job, found: Mapping[str, Figures], compared: Sequence[Ratio]) -> RenderableType:
    """Everything that was measured."""
    return Group(_what(job), _times(found), _memory(found), _ratios(compared))


def _what(job: Job) -> Text:
    size, work = job.size, job.work
    model = size.published or f"Qwen3-VL {size.layers} x {size.hidden}"
    return Text(
        tr(
            "{model}, random weights; LoRA rank {rank} on q, k, v, o of the last {adapted} layers; {rows} rows, "
            "{tokens} tokens, {pictured} with an image; batch {batch}, {epochs} epochs",
            model=model,
            rank=work.rank,
            adapted=work.adapted,
            rows=len(job.lengths),
            tokens=f"{sum(job.lengths):,}",
            pictured=len(job.pictured),
            batch=work.batch_size,
            epochs=work.epochs,
        )
    )


def _table(first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _times(found: Mapping[str, Figures]) -> Table:
    columns = (tr("trunk"), tr("first step"), tr("first epoch"), tr("all epochs"))
    table = _table(tr("seconds"), "tok/s", tr("step"), *columns)
    for one in found.values():
        trunk = f"{one.trunk_seconds:.1f}" if one.trunk_seconds else ""
        times = (f"{value:.1f}" for value in (one.first_step, one.first_epoch, one.total))
        table.add_row(one.name, f"{one.tokens_per_sec:.0f}", f"{one.step_seconds:.3f}", trunk, *times)
    table.caption = tr(
        "medians of {n}; tok/s and step: steady state; the three on the right count from the start of the process",
        n=max(one.repeats for one in found.values()),
    )
    return table


def _memory(found: Mapping[str, Figures]) -> Table:
    columns = (tr("MLX before"), tr("MLX in training"), tr("process"), tr("processor s"), tr("val loss"))
    table = _table(tr("peak memory"), *columns)
    for one in found.values():
        before = megabytes(one.trunk_peak) if one.trunk_peak else ""
        peaks = (megabytes(one.peak), megabytes(one.process_peak))
        table.add_row(one.name, before, *peaks, f"{one.processor_seconds:.0f}", f"{one.val_loss:.5f}")
    return table


def _ratios(compared: Sequence[Ratio]) -> Table:
    table = _table(tr("ours over mlx_vlm.train"), tr("ratio"), tr("bar"))
    for ratio in compared:
        bar = "" if ratio.bar is None else f"{'≤' if ratio.at_most else '≥'} {ratio.bar:g}"
        style = "" if ratio.bar is None else "green" if ratio.reached else "red"
        value = f"{ratio.value:.1e}" if ratio.value < 1e-2 else f"{ratio.value:.2f}"
        table.add_row(tr(ratio.what), Text(value, style=style), bar)
    return table
