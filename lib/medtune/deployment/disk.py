"""What file systems can do and the standard library does not offer: clones, exchanging two names, flushing."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

AT_FDCWD = -100 if sys.platform == "linux" else -2
EXCHANGE = 2  # RENAME_EXCHANGE of Linux's renameat2 and RENAME_SWAP of macOS's renameatx_np
FICLONE = 0x40049409  # Linux ioctl: share the extents of another file (btrfs, XFS)


def real_copy(source: Path, target: Path) -> None:
    """Make ``target`` a regular file with the bytes of ``source``: a clone where there are clones, a hard link, a copy.

    Never a symbolic link: LM Studio does not follow it reliably, and a dangling one breaks its index of the folder.
    """
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


def exchange(a: Path, b: Path) -> bool:
    """Swap two folders' names atomically; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "renameat2" if sys.platform == "linux" else "renameatx_np", None)
    if call is None:
        return False
    if call(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), ctypes.c_uint(EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(b))


def inode(path: Path) -> int | None:
    """What stays the same when a folder is renamed; None where there is none."""
    return path.stat().st_ino if path.exists() else None


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
