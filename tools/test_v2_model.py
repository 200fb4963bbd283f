#!/usr/bin/env python3
"""adapters -> evaluation: ask the tuned and the baseline model the same questions and measure which answers better.

reads   RUN/training.json and adapters, DATA/test.jsonl, the bench folder of eval.yaml
writes  RUN/predictions.jsonl, then RUN/evaluation.json; with --review RUN/review.csv or, from a filled sheet,
        RUN/reviews.jsonl; with --cli or --prompt nothing: it talks
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

import argparse
from pathlib import Path

from medtune import cli, config, files, receipt
from medtune.errors import UserError
from medtune.evaluation import review, scoring, screen, summary
from medtune.evaluation.modelpair import ModelPair
from medtune.evaluation.predictions import Predictions
from medtune.files import folders
from medtune.i18n import tr
from medtune.model import runtime
from medtune.receipt import EVALUATION
from medtune.run import PREDICTIONS, REVIEWS, WEIGHTS, Run
from medtune.schemas import EvalConfig


def main(argv: list[str] | None = None) -> None:
    """Evaluate, review or talk."""
    args = parse(argv)
    run = Run.chosen(args.run)
    settings = config.load(EvalConfig, args.config or run.settings("eval"), args.set)
    pair = ModelPair.open(run, Run(args.baseline) if args.baseline else None)
    if args.cli or args.prompt is not None:
        talk(pair, settings, args)
    elif args.review is not None:
        with folders.held(run.path):
            folders.own(run.path)
            ask_people(pair, settings, args)
    else:
        evaluate(pair, settings, args)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__ or "", required=False)
    cli.add_run(parser)
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="the data set (default: the training's)")
    parser.add_argument("--baseline", type=Path, metavar="RUN", help="compare with this run instead of the base model")
    parser.add_argument("--cli", action="store_true", help="talk to the tuned model")
    parser.add_argument("--prompt", metavar="TEXT", help="ask one question and print the answer")
    parser.add_argument("--image", type=Path, action="append", default=[], metavar="PATH", help="shown with the prompt")
    parser.add_argument(
        "--review", nargs="?", const="", metavar="FILE.csv", help="write a sheet for a doctor, or read a filled one"
    )
    args = parser.parse_args(argv)
    for talk in ("--cli", "--prompt"):
        cli.apart(parser, args, talk, "--baseline", "--review")
    cli.needs(parser, args, "--image", "--prompt", "--cli")
    return args


def data_of(pair: ModelPair, args: argparse.Namespace) -> Path:
    """The data set that was named, else the one of the training."""
    found = args.data or pair.run.data
    if found is None:
        raise UserError(tr("{run}: what it was trained on is not known; name a data set: DATA", run=pair.run.path))
    return found


def evaluate(pair: ModelPair, settings: EvalConfig, args: argparse.Namespace) -> None:
    """Ask what was not asked before, score everything, print it and write the receipt."""
    data, run = data_of(pair, args), pair.run.path
    items, sides = pair.items(data, settings), pair.sides(settings)
    store = Predictions(run / PREDICTIONS)
    with receipt.stage(
        run / EVALUATION,
        settings,
        inputs=pair.inputs(data, items),
        overrides=args.set,
        seeds={"evaluation": settings.seed},
    ) as done:
        runtime.start()
        from medtune.evaluation.answering import answer

        made = answer(pair.base, sides, items, store, settings)
        print(tr("{new} answers generated, {old} kept from before", new=made, old=2 * len(items) - made))
        done.results = {
            "base_model": pair.run.training.results["base_model"],
            "adapters": {"path": str(run), "hash": pair.hashes[WEIGHTS]},
            "baseline": {"kind": "run" if args.baseline else "base", "path": str(args.baseline or pair.base.name)},
            "max_tokens": settings.max_tokens,
            "dtype": str(runtime.compute_dtype() or "as stored").removeprefix("mlx.core."),
            **summary.evaluate(scoring.judge(items, store, *sides), pair.priorities, settings),
            "tokens_per_sec": store.speed(items, sides),
        }
        done.outputs = {PREDICTIONS: files.sha256(store.path)}
    screen.show(done.results)


def ask_people(pair: ModelPair, settings: EvalConfig, args: argparse.Namespace) -> None:
    """Write the sheet for a doctor, or read a filled one back."""
    run = pair.run.path
    items, sides = pair.items(data_of(pair, args), settings), pair.sides(settings)
    store = Predictions(run / PREDICTIONS)
    if any(store.missing(side, items) for side in sides):
        raise UserError(
            tr(
                "{run}: not all answers are there; run `{command}` first",
                run=run,
                command=pair.run.command("test-model"),
            )
        )
    judged = scoring.judge(items, store, *sides)
    if args.review:
        reviews = review.read(Path(args.review), judged, settings.seed)
        review.save(run / REVIEWS, reviews)
        print(review.summary(reviews))
    else:
        sheet = run / "review.csv"
        if sheet.exists() and review.answered(sheet):
            raise UserError(tr("{path}: has been filled in; read it with --review {path}, or move it away", path=sheet))
        count = review.write(sheet, judged, settings.seed)
        print(
            tr(
                "{path}: {n} pairs of answers; write 1, 2 or 0 (tie) under better, then --review it",
                path=sheet,
                n=count,
            )
        )


def talk(pair: ModelPair, settings: EvalConfig, args: argparse.Namespace) -> None:
    """One question, or a conversation."""
    runtime.start()
    from medtune.evaluation import chat

    named = receipt.Receipt.found(args.data / receipt.MANIFEST) if args.data else None
    edge = named.config["max_image_edge"] if named else None
    talking = chat.Conversation(pair.base, pair.run, pair.run.system_prompt, settings.max_tokens, max_edge=edge)
    for path in args.image:
        talking.show(path)
    if args.prompt is not None:
        chat.once(talking, args.prompt)
    if args.cli:
        chat.converse(talking)


if __name__ == "__main__":
    cli.run(main)
