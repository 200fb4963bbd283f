#!/usr/bin/env python3
"""one job -> figures: our trainer beside mlx_vlm.train and mlx_lm.lora, each in a process of its own.

reads   nothing: model (random weights) and data are made from a seed
writes  OUT/job, OUT/bench.json and OUT/bench.png; with --scaling OUT/scaling.json and OUT/scaling.png
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

import argparse
from pathlib import Path

from rich.console import Console

from medtune import cli, files, receipt
from medtune.bench import chart, contenders, figures, job, runner, scaling, screen
from medtune.bench.job import Work
from medtune.bench.model import ModelSize
from medtune.bench.rows import Mix
from medtune.i18n import tr
from medtune.model import runtime

REAL = "Qwen3-VL-30B-A3B-Instruct"  # whose shapes are used as well where there is an NVIDIA GPU


def main(argv: list[str] | None = None) -> None:
    """Measure and show."""
    parser = cli.parser(__doc__, config=False)
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder for job and results")
    parser.add_argument("--scaling", action="store_true", help="time against rows, length and layers instead")
    parser.add_argument("--only", nargs="+", choices=contenders.ORDER, default=contenders.ORDER, help="contenders")
    parser.add_argument("--repeats", type=cli.count, default=3, help="times each contender runs, in turn (default: 3)")
    parser.add_argument("--epochs", type=cli.count, default=Work.epochs, help="default: %(default)s")
    parser.add_argument("--rows", type=cli.count, default=Mix.train, help="examples to train on (default: %(default)s)")
    parser.add_argument(
        "--layers", type=cli.count, default=ModelSize.layers, help="of the model (default: %(default)s)"
    )
    parser.add_argument("--hidden", type=cli.count, default=ModelSize.hidden, help="its width (default: %(default)s)")
    args = parser.parse_args(argv)
    cli.apart(parser, args, "--scaling", "--only", "--repeats")
    runtime.start()
    size, mix, work = ModelSize(args.layers, args.hidden), Mix(train=args.rows), Work(epochs=args.epochs)
    if args.scaling:
        scale(args.out, size, mix, work)
        return
    compare(args.out, size, mix, work, args)
    import mlx.core as mx

    if mx.cuda.is_available():
        real = Work(args.epochs, adapted=16, rank=128, alpha=256.0, learning_rate=5e-6)
        compare(args.out / REAL, ModelSize(published=REAL), mix, real, args)


def compare(out: Path, size: ModelSize, mix: Mix, work: Work, args: argparse.Namespace) -> None:
    """Every contender in turn, so that what else the machine does meets all of them; then once more."""
    made = job.write(out / "job", size, mix, work)
    runs: dict[str, list[figures.Watched]] = {name: [] for name in contenders.ORDER if name in args.only}
    for number in range(args.repeats):
        for name, rows in runs.items():
            rows.append(runner.measure(name, made.folder))
            seconds = f"{rows[-1]['finished']:.1f}"
            print(f"{number + 1}/{args.repeats} {contenders.get(name).NAME}: {seconds} s", flush=True)
    found, ratios = figures.collect(made, runs)
    Console().print(screen.render(made, found, ratios))
    about = {"versions": receipt.versions(), "machine": receipt.machine(), "commit": receipt.commit()}
    files.write_json(out / "bench.json", about | figures.to_json(found, ratios, runs))
    chart.draw(out / "bench.png", found, runs)
    print(tr("written: {files}", files=f"{out}/bench.json, {out}/bench.png"))


def scale(out: Path, size: ModelSize, mix: Mix, work: Work) -> None:
    """Our time along three axes."""
    found = scaling.series(out / "job", size, mix, work, print)
    Console().print(scaling.render(found))
    files.write_json(out / "scaling.json", scaling.to_json(found))
    chart.draw_scaling(out / "scaling.png", found)
    print(tr("written: {files}", files=f"{out}/scaling.json, {out}/scaling.png"))


if __name__ == "__main__":
    cli.run(main)
