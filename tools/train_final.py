#!/usr/bin/env python3
"""dataset -> adapters: fine-tune the top layers of the base model on a prepared data set.

reads   DATA/manifest.json and its splits, train.yaml
writes  RUN/adapters.safetensors, adapter_config.json, numbered checkpoints, metrics.jsonl, training_real_*.log,
        resume.safetensors while it runs, then RUN/training.json
"""

from __future__ import annotations

from pathlib import Path

from rich import console

from medtune import cli, config, engine, files, planner, receipt
from medtune.basemodel import find
from medtune.dataset import Dataset
from medtune.i18n import tr
from medtune.schemas import TrainConfig


def main(argv: list[str] | None = None) -> None:
    """Plan or train."""
    parser = cli.parser(__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of prepare_data")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of this run")
    parser.add_argument("--plan", action="store_true", help="only say what it needs; loads no weights")
    args = parser.parse_args(argv)
    settings = config.load(TrainConfig, args.config, args.set)
    if args.plan:
        console.Console().print(planner.for_run(settings, args.data, args.out).render())
        return
    dataset = Dataset.open(args.data)
    base = find(settings.base_model)
    inputs = {"manifest.json": files.sha256(args.data / "manifest.json"), "base_model": base.weights_hash}
    with receipt.stage(
        args.out / "training.json",
        settings,
        inputs=inputs,
        overrides=args.set,
        seeds={"train": settings.seed},
        replace=False,
        redo=tr("train into another folder (make train RUN=adapters_v3) or remove {run}", run=args.out),
    ) as done:
        engine.start()
        from medtune import training

        job = training.assemble(dataset, base, settings, args.out)
        done.results = job.run()
        done.outputs = {name: files.sha256(args.out / name) for name in job.outputs}
    print(tr("{run}: trained; next: make test-model, make deploy, make report", run=args.out))


if __name__ == "__main__":
    cli.run(main)
