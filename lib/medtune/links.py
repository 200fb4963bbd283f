"""Real files for little disk and time: a clone where the file system has them, else a hard link, else a copy.

Never a symbolic link: LM Studio does not follow it reliably, and a dangling one breaks its index of the folder.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

FICLONE = 0x40049409  # Linux ioctl: share the extents of another file (btrfs, XFS)


def real_copy(source: Path, target: Path) -> None:
    """Make ``target`` a regular file with the bytes of ``source``; a symbolic link is followed first."""
    source = source.resolve()
    if not _clone(source, target) and not _link(source, target):
        shutil.copyfile(source, target)


def _clone(source: Path, target: Path) -> bool:
    if sys.platform == "darwin":
        clonefile = ctypes.CDLL(None, use_errno=True).clonefile  # APFS; fails elsewhere
        return clonefile(os.fsencode(source), os.fsencode(target), 0) == 0
    if sys.platform != "linux":
        return False
    import fcntl

    with open(source, "rb") as read, open(target, "xb") as write:
        try:
            fcntl.ioctl(write, FICLONE, read.fileno())
        except OSError:
            target.unlink()
            return False
    return True


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        return False
    return True
