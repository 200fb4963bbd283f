#!/usr/bin/env python3
"""dataset -> adapters: fine-tune the top layers of the base model on a prepared data set.

reads   DATA/manifest.json and its splits, train.yaml
writes  RUN/adapters.safetensors, adapter_config.json, numbered checkpoints, metrics.jsonl, training_real_*.log,
        resume.safetensors while it runs, then RUN/training.json
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from medtune import cli, config, files, origin, planner, receipt
from medtune.dataset import Dataset
from medtune.deployment import folder
from medtune.files import folders
from medtune.i18n import tr
from medtune.model import claim, runtime
from medtune.model.base import Base
from medtune.origin import Origin
from medtune.planner import screen
from medtune.receipt import TRAINING, AlreadyDone
from medtune.run import OUTPUTS, Run
from medtune.schemas import TrainConfig
from medtune.training import cluster


def main(argv: list[str] | None = None) -> None:
    """Plan or train."""
    parser = cli.parser(__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of prepare_data")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of this run")
    parser.add_argument("--plan", action="store_true", help="only say what it needs; loads no weights")
    parser.add_argument("--hosts", help="machines to train on together: a number, names with commas, or a hostfile")
    parser.add_argument(
        "--worker", type=Path, help=argparse.SUPPRESS
    )  # one of several; the leader writes its results here
    cli.add_cache(parser)
    args = parser.parse_args(argv)
    cli.apart(parser, args, "--plan", "--hosts", "--cache", "--worker")
    run = Run(args.out)
    args.set = run.overrides(args.config, args.set)
    settings = config.load(TrainConfig, args.config, args.set)
    if args.plan:
        Console().print(screen.render(planner.for_run(settings, args.data, args.out)))
        return
    if args.worker:
        results = alone(args, settings)
        if cluster.Cluster.join().leads:
            files.write_json(args.worker, results)
        return
    with training(run, args, settings) as done:
        done.results = together(args) if args.hosts else alone(args, settings)
        done.outputs = {name: files.sha256(run.path / name) for name in OUTPUTS}
    following = ", ".join(f"`{run.command(verb)}`" for verb in ("test-model", "deploy", "report"))
    print(tr("{run}: trained; next: {following}", run=run.path, following=following))


@contextmanager
def training(run: Run, args: argparse.Namespace, settings: TrainConfig) -> Iterator[receipt.Receipt]:
    """The stage, in a run that remembers where it comes from, whether it is trained now or was long ago."""
    dataset, base = Dataset.open(args.data), Base.find(settings.base_model)
    mark = claim.fingerprint(dataset, base, settings)
    came = Origin(args.config, args.data, tuple(args.set), settings=settings.model_dump(mode="json"), mark=mark)
    redo = tr("train into another folder: `{command}`", command=origin.command("train", folders.beside(run.path), came))
    try:
        with receipt.stage(
            run.path / TRAINING,
            settings,
            inputs={**dataset.hashes, "base_model": base.weights_hash},
            overrides=args.set,
            seeds={"train": settings.seed},
            replace=False,
            redo=redo,
            check=partial(claim.check, run, came, redo),
        ) as done:
            folder.check(base)
            if not run.begun:
                run.remember(came)
            yield done
    except AlreadyDone:
        with suppress(OSError):  # it may be in a folder that one may only read
            run.settle(came)
        raise
    run.settle(came)


def alone(args: argparse.Namespace, settings: TrainConfig) -> dict[str, Any]:
    """Train here, or be one machine of several when mlx.launch started this process."""
    runtime.start()
    from medtune.training import job

    machines = cluster.Cluster.join()
    run = args.out if machines.leads else cluster.scratch(args.out, machines.rank)
    with nullcontext() if machines.leads else redirect_stdout(StringIO()):
        dataset, base = Dataset.open(args.data), Base.find(settings.base_model)
        return job.assemble(dataset, base, settings, run, args.cache, cluster=machines).run()


def together(args: argparse.Namespace) -> dict[str, Any]:
    """Train on several machines, each running this tool as a worker."""
    results = args.out / ".results.json"
    overrides = [part for override in args.set for part in ("--set", override)]
    command = [__file__, str(args.data), "--config", str(args.config), "--out", str(args.out), *overrides]
    command += ["--cache", str(args.cache)]
    return cluster.launch(args.hosts, [*command, "--worker", str(results)], results)


if __name__ == "__main__":
    cli.run(main)
