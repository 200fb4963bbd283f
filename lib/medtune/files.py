"""Files between the stages: atomic writes, JSON lines that know their line number, hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

from medtune.errors import UserError
from medtune.i18n import tr

Json = dict[str, Any]  # a JSON object
MOST_TEXT = 2**28  # bytes of a file that is read as one text: no config, receipt or vocabulary is near it
TRUSTED = 2 * 2**30  # bytes; a larger file (a deployed model's weights) is not hashed again to see whether it changed


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move it there on success: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")  # same suffix: some writers append a missing one
    try:
        yield partial
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def writing(paths: Mapping[str, Path], mode: Literal["w", "wb"] = "w") -> Iterator[dict[str, Any]]:
    """Yield files opened for writing, by name; each is moved to its place when all of them are written."""
    encoding = "utf-8" if mode == "w" else None
    with ExitStack() as stack:
        partial = {name: stack.enter_context(atomic(path)) for name, path in paths.items()}
        with ExitStack() as opened:
            yield {name: opened.enter_context(open(path, mode, encoding=encoding)) for name, path in partial.items()}


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN is refused, since other readers cannot parse it."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[str]) -> None:
    """Write lines of JSON atomically."""
    with atomic(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.writelines(row + "\n" for row in rows)


def check_regular(path: Path, most: int | None = None) -> None:
    """Raise a UserError for a pipe or a device, which may never end, and for a file of more than ``most`` bytes.

    What is not there, or a folder, is left to whoever opens it: the system says so itself.
    """
    try:
        found = path.stat()
    except OSError:
        return
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise UserError(tr("{path}: a pipe or a device; only files are read", path=path))
    if most is not None and found.st_size > most:
        raise UserError(tr("{path}: {size}, too large for such a file", path=path, size=megabytes(found.st_size)))


def check_name(name: str | Path) -> None:
    """Raise a UserError for a name that is no UTF-8: it could be opened, but in no receipt could it be named."""
    try:
        str(name).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(tr("{word}: a name that is no UTF-8; rename it", word=ascii(str(name)))) from None


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """Read UTF-8 text; a missing file, or one in another encoding, too large or endless, is a UserError."""
    check_regular(path, most)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(tr("{path}: not UTF-8 (byte {byte}); bring it back", path=path, byte=error.start)) from None


def read_json(path: Path) -> Any:
    """Read one JSON file; a missing or broken one is a UserError with its place."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        raise UserError(tr("{path}: JSON that cannot be read ({error})", path=path, error=error)) from None


def read_object(path: Path) -> Json:
    """Read one JSON file that must hold an object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(tr("{place}: not a JSON object; bring the file back or write it again", place=path))
    return found


def read_jsonl(path: Path) -> Iterator[tuple[int, Json]]:
    """Yield (line number, object) of a file this project wrote; a broken line is a UserError."""
    check_regular(path)
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _object(line, f"{path}:{number}")


def _object(line: bytes, place: str) -> Json:
    try:
        found = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise UserError(tr("{place}: not UTF-8; bring the file back or write it again", place=place)) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(tr("{path}: JSON that cannot be read ({error})", path=place, error=error)) from None
    if not isinstance(found, dict):
        raise UserError(tr("{place}: not a JSON object; bring the file back or write it again", place=place))
    return found


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes; a UserError where there is none."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(tr("{path}: no such file; bring it back, or run again what writes it", path=path)) from None


def differs(path: Path, digest: str) -> bool:
    """Whether this file's sha256 is another; one larger than TRUSTED is taken to be the same."""
    stat = path.stat()
    return stat.st_size <= TRUSTED and _sha256_then(path, stat.st_mtime_ns, stat.st_size) != digest


def lost(path: Path, digest: str) -> bool:
    """Whether what was written with this sha256 is gone or is another."""
    return not path.exists() or (path.is_file() and differs(path, digest))


@cache
def _sha256_then(path: Path, changed: int, size: int) -> str:
    """Several receipts name the same file; it is read once."""
    return sha256(path)


def hash_of(value: Any) -> str:
    """Hex digest of a JSON-able value; key order does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()  # a file name may be no UTF-8


def free_bytes(folder: Path) -> int:
    """Free disk space where ``folder`` is or would be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def megabytes(size: float) -> str:
    """A size for people: ``136.0 MiB``, ``17.2 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
