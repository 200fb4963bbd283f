"""The first and last moments of a tool: Ctrl-C is one line although libraries are being imported, and printing works.

A tool imports it before anything that takes time. In a process that is no tool it changes nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from medtune.i18n import Words, say

STOPPED: Words = {"en": "stopped", "zh": "已停止"}
INTERRUPTED = 130  # exit code


def quit_at_once(number: int, frame: FrameType | None) -> None:
    """Say that it was stopped and end the process, whatever is under way: nothing of it is to be kept.

    A library that is being imported would make an ImportError, or nothing at all, of an exception.
    """
    if not _is_helper():
        os.write(2, f"{say(STOPPED)}\n".encode())
    os._exit(INTERRUPTED)


@contextmanager
def quitting() -> Iterator[None]:
    """Ctrl-C ends the process meanwhile; for imports. Where somebody else handles it, it stays theirs."""
    ours = _is_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours:
        yield
        return
    signal.signal(signal.SIGINT, quit_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interruptible(wanted: bool) -> None:
    """Whether Ctrl-C is an exception, as it is while a tool works; before and after, it ends the process."""
    before, after = (quit_at_once, signal.default_int_handler)[:: 1 if wanted else -1]
    if _is_main_thread() and signal.getsignal(signal.SIGINT) is before:
        signal.signal(signal.SIGINT, after)


def open_streams() -> None:
    """Give a closed standard stream a place to go, and let what a stream cannot write be written as an escape."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _is_helper() -> bool:
    """Whether this process was started by one of ours to share its work; that one speaks."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_tool() -> bool:
    return Path(getattr(sys.modules.get("__main__"), "__file__", None) or "").resolve().parent.name == "tools"


if _is_tool():
    interruptible(False)
