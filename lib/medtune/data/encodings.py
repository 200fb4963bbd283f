"""Encodings: every record as the trainer will see it, made once and kept beside the data set.

Preparation encodes each record to count its tokens, in several processes where there are many; what it made is kept in
``encodings/``, packed, for every training on the data set. It is a cache: what is missing, of another tokenizer or
template, or damaged is encoded again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from medtune import files
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.model import runtime
from medtune.model.base import Base
from medtune.model.renderer import FORM, Example, Renderer
from medtune.records import Record

FOLDER, INDEX = "encodings", "index.json"
KEPT = ("train", "valid")  # the splits that are trained with; of test only the prompts are asked
HEAD = struct.Struct("<II")  # tokens, tokens of images
SHARED_WORK = 16 * 2**20  # bytes of sources from which on starting processes (some seconds each) pays
MOST_PROCESSES = 8


class TokenCount(NamedTuple):
    """Tokens of one record: all (images included), those of images, those that are supervised."""

    tokens: int
    image_tokens: int
    supervised: int

    @classmethod
    def of(cls, example: Example) -> TokenCount:
        """The counts of an example."""
        return cls(len(example.tokens), example.image_tokens, example.supervised)


class Encoded(NamedTuple):
    """One record's tokens, counted and packed."""

    counted: TokenCount
    packed: bytes


Encoder = Callable[[Sequence[Record]], Iterable[Encoded]]  # of records in their order, begun at the call


@contextmanager
def encoder(base: Base, root: Path, source_bytes: int) -> Iterator[Encoder]:
    """An encoder of records whose images lie under ``root``; processes are used from 16 MiB of sources on."""
    processes = min(os.cpu_count() or 1, MOST_PROCESSES)
    if source_bytes < SHARED_WORK or processes == 1:
        renderer = Renderer(base)
        yield lambda records: [encoded(renderer.encode(record, root)) for record in records]
        return
    # spawn: MLX, which the processor imports, does not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_Worker.start, initargs=(base, root)) as pool:
        yield lambda records: pool.map(_Worker.encode, records, chunksize=64)


class _Worker:
    """What an encoding process keeps between records."""

    renderer: Renderer
    root: Path

    @classmethod
    def start(cls, base: Base, root: Path) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; who started this one says so, and ends it
        with redirect_stdout(None):  # the tool has said with what it runs
            runtime.start()
        cls.renderer, cls.root = Renderer(base), root

    @classmethod
    def encode(cls, record: Record) -> Encoded:
        return encoded(cls.renderer.encode(record, cls.root))


def encoded(example: Example) -> Encoded:
    """The example, counted and packed: about as many bytes as its record has characters."""
    arrays = (example.tokens, example.token_weights, np.packbits(example.answer))
    head = HEAD.pack(len(example.tokens), example.image_tokens)
    packed = zlib.compress(head + b"".join(array.tobytes() for array in arrays), 1)
    return Encoded(TokenCount.of(example), packed)


def unpacked(packed: bytes, record: Record, root: Path) -> Example:
    """The example of ``record`` as it was packed; zlib.error, struct.error or ValueError where it is damaged."""
    data = zlib.decompress(packed)
    count, image_tokens = HEAD.unpack_from(data)
    weights, answer = HEAD.size + 4 * count, HEAD.size + 8 * count  # where they begin
    return Example(
        id=record.id,
        tokens=np.frombuffer(data, np.int32, count, HEAD.size),
        token_weights=np.frombuffer(data, np.float32, count, weights),
        answer=np.unpackbits(np.frombuffer(data, np.uint8, offset=answer), count=count).astype(bool),
        images=tuple(root / name for name in record.images),
        image_tokens=image_tokens,
        dim=record.dim,
        label=record.label,
        content=record.hash,
    )


def key(base: Base) -> str:
    """Hash of all that decides how a record becomes tokens."""
    versions = [metadata.version(name) for name in ("medtune", "tokenizers", "transformers", "mlx-vlm")]
    return files.hash_of([base.tokenizer_hash, base.processor_hash, base.template_hash, FORM, *versions])


def write(root: Path, base: Base, spool: BinaryIO, sizes: Sequence[int], assigned: Sequence[str]) -> None:
    """Keep the packed records of ``spool``, of ``sizes`` bytes each, by the split they were assigned to.

    The splits themselves are written already: their hashes tell whose encodings these are.
    """
    spool.seek(0)
    kept: dict[str, list[int]] = {name: [] for name in KEPT}
    with files.writing({name: root / FOLDER / f"{name}.bin" for name in KEPT}, "wb") as opened:
        for size, split in zip(sizes, assigned, strict=True):
            packed = spool.read(size)
            if split in kept:
                opened[split].write(packed)
                kept[split].append(size)
    hashes = {name: files.sha256(root / f"{name}.jsonl") for name in KEPT}
    files.write_json(root / FOLDER / INDEX, {"key": key(base), "splits": hashes, "sizes": kept})


def examples(dataset: Dataset, split: str, records: Sequence[Record], renderer: Renderer) -> Iterator[Example]:
    """The examples of a split's records, all of them in the order of its file; what is not kept is encoded."""
    for record, packed in zip(records, _packed(dataset, split, len(records), renderer.base), strict=True):
        try:
            yield unpacked(packed, record, dataset.root)
        except (zlib.error, struct.error, ValueError):
            yield renderer.encode(record, dataset.root)


def _packed(dataset: Dataset, split: str, count: int, base: Base) -> Iterator[bytes]:
    """What is kept of each record of a split; empty bytes where that is nothing."""
    sizes = _sizes(dataset, split, base)
    if len(sizes) != count:
        yield from [b""] * count
        return
    with open(dataset.root / FOLDER / f"{split}.bin", "rb") as file:
        yield from (file.read(size) for size in sizes)


def _sizes(dataset: Dataset, split: str, base: Base) -> list[int]:
    """Bytes of each record in the split's file; none where that is not of this very split, tokenizer and template."""
    folder = dataset.root / FOLDER
    try:
        index = files.read_json(folder / INDEX)
        sizes: list[int] = index["sizes"][split]
        ours = (index["key"], index["splits"][split]) == (key(base), dataset.hashes[f"{split}.jsonl"])
        return sizes if ours and sum(sizes) == (folder / f"{split}.bin").stat().st_size else []
    except (UserError, OSError, KeyError, TypeError):
        return []
