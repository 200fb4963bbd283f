"""Folders that stages write into: held by one process, kept out of git, and the next free name beside one."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from medtune.errors import UserError
from medtune.files import write_text
from medtune.i18n import tr


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold ``folder``, made where it is missing, for this process alone; a UserError where another one holds it.

    The kernel's lock on the folder itself leaves no file, needs no right to write, and goes with the process. A network
    drive may know no locks: there everybody may.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _locked(handle):
            raise UserError(tr("{folder}: medtune is at work there already; wait until it has ended", folder=folder))
        yield
    finally:
        os.close(handle)
        if made:
            _unmake(folder)


def _unmake(folder: Path) -> None:
    """Take away a folder in which nothing came to be but what we note for ourselves."""
    with suppress(OSError):
        if all(path.name.startswith(".") and path.is_file() for path in folder.iterdir()):
            shutil.rmtree(folder)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        pass
    return True


def own(folder: Path) -> None:
    """Make a held folder ours: git leaves it alone, and what a killed process half wrote is gone."""
    ignored = folder / ".gitignore"
    if not (ignored.exists() or (folder / ".git").exists()):  # a whole checkout is not ours
        write_text(ignored, "*\n")
    for stale in (*folder.glob(".partial-*"), *folder.glob("*/.partial-*")):  # it may be what patients wrote
        if stale.is_file():
            stale.unlink()


def beside(folder: Path) -> Path:
    """A folder beside this one, numbered on, that is not there yet."""
    here = folder if folder.name.strip(".") else folder.resolve()
    stem = here.name.rstrip("0123456789")
    first, stem = (int(here.name[len(stem) :]) + 1, stem) if stem not in ("", here.name) else (2, f"{here.name}_")
    return next(path for n in count(first) if not (path := here.parent / f"{stem}{n}").exists())


def free_bytes(folder: Path) -> int:
    """Free disk space where ``folder`` is or would be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
