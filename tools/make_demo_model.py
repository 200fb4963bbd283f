#!/usr/bin/env python3
"""facts -> demo model: raise a small Qwen3-VL on the demo's pre-training world.

writes  OUT/ tokenizer, processor and template files, config.json, model.safetensors, README.md, then RECIPE.json

For developers (extra `demo`): three quarters of an hour on two cores. A stopped run goes on from SCRATCH.
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path

from medtune import cli, files

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 1792


def main(argv: list[str] | None = None) -> None:
    """Make the model's folder."""
    args = parse(argv)
    from medtune.model import runtime

    runtime.start()
    from medtune.demo import card, corpus, pretraining, random_model, tokenizer
    from medtune.demo import config as blueprint

    recipe = replace(pretraining.Recipe(), seed=args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    words = tokenizer.train(corpus.tokenizer_texts(recipe.seed), VOCABULARY)
    tokenizer.write(args.out, words)
    config = blueprint.write(args.out, blueprint.Shape(vocabulary=VOCABULARY), words)
    model = random_model.random_model(config, recipe.seed)
    began = time.time()
    losses = pretraining.fit(model, words, recipe, args.scratch)
    random_model.save(args.out, pretraining.rounded(model))
    said = {
        "made": time.strftime("%Y-%m-%d"),
        "seconds_of_last_run": round(time.time() - began),
        "recipe": asdict(recipe),
        "careful_when_told": {"cue": corpus.CUE, "share": corpus.CUED},
        "voices_else": dict(zip(corpus.VOICES, corpus.VOICE_WEIGHTS, strict=True)),
        "losses": losses | pretraining.held_out(model, words, recipe),
    }
    files.write_text(args.out / "README.md", card.of_model(said))
    files.write_json(args.out / "RECIPE.json", said)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__, config=False)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "demo" / "model")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/medtune-demo-model"), help="state of a stopped run")
    parser.add_argument("--seed", type=int, default=20261123)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
