#!/usr/bin/env python3
"""dataset -> ablation: train with and without the penalty term from one trunk cache and compare the answers.

reads   DATA/manifest.json and its splits, train.yaml, eval.yaml
writes  OUT/without and OUT/with (two runs), OUT/predictions.jsonl, OUT/ABLATION.md, then OUT/ablation.json
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

from pathlib import Path

from rich.console import Console

from medtune import cli, config, files, receipt
from medtune.bench import ablation_screen
from medtune.bench.ablation import Ablation, AblationConfig
from medtune.i18n import tr
from medtune.model import runtime
from medtune.receipt import TRAINING
from medtune.run import PREDICTIONS
from medtune.schemas import EvalConfig, TrainConfig


def main(argv: list[str] | None = None) -> None:
    """Train twice, ask both, compare."""
    parser = cli.parser(__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of prepare_data")
    parser.add_argument("--eval", type=Path, required=True, metavar="FILE", help="eval.yaml of the comparison")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder for both runs and the result")
    cli.add_cache(parser)
    args = parser.parse_args(argv)
    settings = AblationConfig(
        train=config.load(TrainConfig, args.config, args.set), evaluation=config.load(EvalConfig, args.eval)
    )
    made = Ablation(args.data, settings, args.out, args.cache)
    runtime.start()
    made.train()
    inputs = {f"{name}/{TRAINING}": files.sha256(args.out / name / TRAINING) for name in made.arms}
    page = args.out / "ABLATION.md"
    with receipt.stage(args.out / "ablation.json", settings, inputs=inputs, overrides=args.set) as done:
        done.results = made.compare()
        files.write_text(page, ablation_screen.markdown(done.results))
        done.outputs = {name: files.sha256(args.out / name) for name in (PREDICTIONS, page.name)}
    Console().print(ablation_screen.render(done.results))
    print(tr("written: {files}", files=page))


if __name__ == "__main__":
    cli.run(main)
