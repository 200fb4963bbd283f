#!/usr/bin/env python3
"""sources -> dataset: check every row and image, split without leaks, count tokens.

reads   the SOURCEs (files or folders of .jsonl / .json), then those of data.yaml; the images they name
writes  OUT/train.jsonl, valid.jsonl, test.jsonl, images/, encodings/, rejected.jsonl, sources.jsonl (which raw file
        is meant by each mark of the manifest), then OUT/manifest.json
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

import argparse
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rich.console import Console

from medtune import cli, dataset, files
from medtune.config import load
from medtune.data import encodings, imagestore, manifest, screen
from medtune.data.imagestore import ImageStore
from medtune.data.preparation import Preparation
from medtune.data.rejections import rejections
from medtune.data.sources import SourceFile, open_sources
from medtune.deployment import folder
from medtune.i18n import tr
from medtune.model import runtime
from medtune.model.base import Base
from medtune.origin import Origin
from medtune.progress import progress
from medtune.receipt import MANIFEST, stage
from medtune.records import SPLITS
from medtune.schemas import DataConfig, Source


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="raw files or folders, before those of the config")
    parser.add_argument("--out", type=Path, required=True, metavar="DATA", help="the folder of the dataset")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Prepare a data set."""
    args = parse(argv)
    config = load(DataConfig, args.config, args.set)
    named = [Source(path=path) for path in args.sources]
    config = config.model_copy(update={"sources": [*named, *config.sources]})
    base = Base.find(config.tokenizer)
    found = open_sources(config.sources, args.out)
    inputs = {dataset.mark(str(source.path)): files.sha256(source.path) for source in found}
    inputs |= {"tokenizer": base.tokenizer_hash, "processor": base.processor_hash, "template": base.template_hash}
    inputs["images"] = imagestore.state_hash(args.out, config.max_image_edge)
    seeds = {"split": config.seed}
    overrides = [text for text in args.set if not text.startswith("sources=")]
    came = Origin(args.config, args.out, tuple(args.set), tuple(args.sources))
    check = partial(dataset.claim, args.out, came)
    with stage(
        args.out / MANIFEST, marked(config), inputs=inputs, overrides=overrides, seeds=seeds, check=check
    ) as receipt:
        folder.check(base)
        runtime.start()
        came.write(args.out)
        results, first = prepare(config, base, found, args.out)
        receipt.results = manifest.encoded_with(base) | results
        receipt.outputs = {f"{name}.jsonl": files.sha256(args.out / f"{name}.jsonl") for name in SPLITS}
        receipt.inputs["images"] = imagestore.state_hash(args.out, config.max_image_edge)
    screen.show(receipt.results, first, Console())
    print(args.out / MANIFEST)


def marked(config: DataConfig) -> DataConfig:
    """The settings as the receipt holds them: a source's path may name a patient."""
    told = [source.model_copy(update={"path": dataset.mark(source.path)}) for source in config.sources]
    return config.model_copy(update={"sources": told})


def prepare(
    config: DataConfig, base: Base, found: list[SourceFile], out: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the data set; returns the figures of its manifest and the place of each reason's first rejected row."""
    size = sum(source.path.stat().st_size for source in found)
    store = ImageStore(out, config.max_image_edge)
    with TemporaryFile("w+", encoding="utf-8", dir=out) as spool, TemporaryFile(dir=out) as packed:
        with (
            rejections(out / "rejected.jsonl") as rejected,
            encodings.encoder(base, out, size) as encode,
            progress(tr("prepare"), size, "B") as bar,
        ):
            preparation = Preparation(config, store, encode, rejected, spool, packed)
            preparation.read(found, bar)
        assigned = preparation.assigned()
        named = dict.fromkeys([source.path for source in config.sources] + [str(source.path) for source in found])
        rows = ({"mark": dataset.mark(path), "path": path} for path in named)
        files.write_jsonl(out / dataset.SOURCES, (json.dumps(row) for row in rows))
        store.close(preparation.write(out, assigned))
        encodings.write(out, base, packed, [entry.packed_bytes for entry in preparation.entries], assigned)
    return manifest.results(preparation.entries, assigned, found, rejected), rejected.first


if __name__ == "__main__":
    cli.run(main)
