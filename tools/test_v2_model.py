#!/usr/bin/env python3
"""adapters -> evaluation: ask the tuned and the baseline model the same questions and measure which answers better.

reads   RUN/training.json and adapters, DATA/test.jsonl, the bench folder of eval.yaml
writes  RUN/predictions.jsonl, then RUN/evaluation.json; with --review RUN/review.csv or, from a filled sheet,
        RUN/reviews.jsonl; with --cli or --prompt nothing: it talks
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medtune import cli, config, files, receipt
from medtune.errors import UserError
from medtune.evaluation import review, scoring, screen, summary
from medtune.evaluation.modelpair import ModelPair
from medtune.evaluation.predictions import FILE, Predictions
from medtune.i18n import tr
from medtune.model import runtime
from medtune.run import WEIGHTS
from medtune.schemas import EvalConfig


def main(argv: list[str] | None = None) -> None:
    """Evaluate, review or talk."""
    args = parse(argv)
    settings = config.load(EvalConfig, args.config, args.set)
    pair = ModelPair.open(args.run, args.baseline)
    if args.cli or args.prompt is not None:
        talk(pair, settings, args)
    elif args.review is not None:
        ask_people(pair, settings, args)
    else:
        evaluate(pair, settings, args)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of train_final")
    parser.add_argument("data", type=Path, metavar="DATA", nargs="?", help="folder of prepare_data; not for talking")
    parser.add_argument("--baseline", type=Path, metavar="RUN", help="compare with this run instead of the base model")
    parser.add_argument("--cli", action="store_true", help="talk to the tuned model")
    parser.add_argument("--prompt", metavar="TEXT", help="ask one question and print the answer")
    parser.add_argument("--image", type=Path, action="append", default=[], metavar="PATH", help="shown with the prompt")
    parser.add_argument(
        "--review", nargs="?", const="", metavar="FILE.csv", help="write a sheet for a doctor, or read a filled one"
    )
    args = parser.parse_args(argv)
    talks = args.cli or args.prompt is not None
    if args.image and not talks:
        parser.error("--image needs --prompt or --cli")
    if args.data is None and not talks:
        parser.error("DATA is missing: the folder of prepare_data the run was trained on")
    return args


def evaluate(pair: ModelPair, settings: EvalConfig, args: argparse.Namespace) -> None:
    """Ask what was not asked before, score everything, print it and write the receipt."""
    items = pair.items(args.data, settings)
    sides = pair.sides(settings)
    store = Predictions(args.run / FILE)
    with receipt.stage(
        args.run / "evaluation.json",
        settings,
        inputs=pair.inputs(args.data, items),
        overrides=args.set,
        seeds={"evaluation": settings.seed},
    ) as done:
        runtime.start()
        from medtune.evaluation.answering import answer

        made = answer(pair.base, sides, items, store, settings)
        print(tr("{new} answers generated, {old} kept from before", new=made, old=2 * len(items) - made))
        done.results = {
            "base_model": pair.training.results["base_model"],
            "adapters": {"path": str(args.run), "hash": pair.hashes[WEIGHTS]},
            "baseline": {"kind": "run" if args.baseline else "base", "path": str(args.baseline or pair.base.name)},
            "max_tokens": settings.max_tokens,
            "dtype": str(runtime.compute_dtype() or "as stored").removeprefix("mlx.core."),
            **summary.evaluate(scoring.judge(items, store, *sides), pair.priorities, settings),
            "tokens_per_sec": store.speed(items, sides),
        }
        done.outputs = {FILE: files.sha256(store.path)}
    screen.show(done.results)


def ask_people(pair: ModelPair, settings: EvalConfig, args: argparse.Namespace) -> None:
    """Write the sheet for a doctor, or read a filled one back."""
    items, sides = pair.items(args.data, settings), pair.sides(settings)
    store = Predictions(args.run / FILE)
    if any(store.missing(side, items) for side in sides):
        raise UserError(tr("{run}: not all answers are there; run `make test-model` first", run=args.run))
    judged = scoring.judge(items, store, *sides)
    if args.review:
        reviews = review.read(Path(args.review), judged, settings.seed)
        review.save(args.run / review.FILE, reviews)
        print(review.summary(reviews))
    else:
        sheet = args.run / "review.csv"
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

    talking = chat.Conversation(pair.base, args.run, pair.system_prompt, settings.max_tokens)
    for path in args.image:
        talking.show(path)
    if args.prompt is not None:
        chat.once(talking, args.prompt)
    if args.cli:
        chat.converse(talking)


if __name__ == "__main__":
    cli.run(main)
