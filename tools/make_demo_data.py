#!/usr/bin/env python3
"""facts -> demo data: questions and answers of the demo's world, with the images they ask about.

writes  OUT/{accuracy,warmth,vision}.jsonl (records of medtune.records), OUT/images/, then OUT/SOURCE_CARD.md

For developers (extra `demo`); the same seed and packages give the same bytes.
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

import argparse
import shutil
from pathlib import Path

from medtune import cli, files

ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str] | None = None) -> None:
    """Make the folder of demo data."""
    from medtune.demo import card, collection
    from medtune.records import DIMENSIONS

    args = parse(argv)
    made = collection.collect(args.seed)
    for dimension in DIMENSIONS:
        lines = (record.to_json() for record in made.records if record.dim == dimension)
        files.write_jsonl(args.out / f"{dimension}.jsonl", lines)
    shutil.rmtree(args.out / "images", ignore_errors=True)  # of an earlier seed
    (args.out / "images").mkdir()
    for name, png in made.images.items():
        (args.out / name).write_bytes(png)
    files.write_text(args.out / "SOURCE_CARD.md", card.of_data(made.records, args.seed))
    print(f"{len(made.records)} records and {len(made.images)} images in {args.out}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__, config=False)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "raw" / "demo")
    parser.add_argument("--seed", type=int, default=20261124)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
