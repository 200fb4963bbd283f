"""Counting tokens: every record is encoded as the trainer will, in several processes where there is much of it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from medtune.model import runtime
from medtune.model.base import Base
from medtune.model.renderer import Chat
from medtune.records import Record

SHARED_WORK = 16 * 2**20  # bytes of sources from which on starting processes (some seconds each) pays
MOST_PROCESSES = 8


@dataclass(frozen=True)
class Count:
    """Tokens of one record: all (images included), those of images, those that are supervised."""

    tokens: int
    image_tokens: int
    supervised: int


Counter = Callable[[Sequence[Record]], Iterable[Count]]  # counts of records in their order, begun at the call


@contextmanager
def counter(base: Base, root: Path, source_bytes: int) -> Iterator[Counter]:
    """A counter of records whose images lie under ``root``; processes are used from 16 MiB of sources on."""
    processes = min(os.cpu_count() or 1, MOST_PROCESSES)
    if source_bytes < SHARED_WORK or processes == 1:
        chat = Chat(base)
        yield lambda records: [_count(chat, record, root) for record in records]
        return
    # spawn: MLX, which the processor imports, does not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_Worker.start, initargs=(base, root)) as pool:
        yield lambda records: pool.map(_Worker.count, records, chunksize=64)


class _Worker:
    """What a counting process keeps between records."""

    chat: Chat
    root: Path

    @classmethod
    def start(cls, base: Base, root: Path) -> None:
        with redirect_stdout(None):  # the tool has said with what it runs
            runtime.start()
        cls.chat, cls.root = Chat(base), root

    @classmethod
    def count(cls, record: Record) -> Count:
        return _count(cls.chat, record, cls.root)


def _count(chat: Chat, record: Record, root: Path) -> Count:
    example = chat.encode(record, root)
    return Count(len(example.tokens), example.image_tokens, example.supervised)
