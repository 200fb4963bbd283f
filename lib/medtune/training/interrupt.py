"""Ctrl-C and SIGTERM as a wish that is granted at the next safe place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType


@dataclass
class Interrupt:
    """Whether somebody asked to stop."""

    noted: bool = False
    file: Path | None = None  # asks too, as long as it exists

    @property
    def requested(self) -> bool:
        """By a signal, or by the file."""
        return self.noted or (self.file is not None and self.file.exists())


@contextmanager
def deferred(file: Path | None = None) -> Iterator[Interrupt]:
    """Note the first Ctrl-C or SIGTERM instead of raising; a second one raises at once.

    With ``file`` only its existence asks, and signals do what they always do.
    """
    interrupt = Interrupt(file=file)
    if file or threading.current_thread() is not threading.main_thread():
        yield interrupt  # signals can only be handled on the main thread
        return

    def note(number: int, frame: FrameType | None) -> None:
        if interrupt.noted:
            raise KeyboardInterrupt
        interrupt.noted = True

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
