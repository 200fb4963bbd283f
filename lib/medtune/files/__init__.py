"""Files between the stages: atomic writes, JSON lines with their line numbers, hashes, checksums, homeless paths."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

from medtune.errors import UserError
from medtune.i18n import tr

Json = dict[str, Any]  # a JSON object
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # met while writing, where the system names no file
MOST_TEXT = 2**28  # bytes of a file that is read as one text: no config, receipt or vocabulary is near it
SEAL = "checksum"  # of a JSON object that was sealed
TRUSTED = 2 * 2**30  # bytes; a larger file (a deployed model's weights) is not hashed again to see whether it changed


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and move it there on success: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")  # same suffix: some writers append a missing one
    try:
        with named(path):
            yield partial
            with open(partial, "rb") as written:
                os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name ``path`` where the system says meanwhile that the disk is full, which it says of no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in FULL:
            error.filename = str(path)
        raise


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


def sealed(value: Json) -> Json:
    """``value`` with a checksum of itself."""
    plain = json.loads(json.dumps(value))  # as it will be read back
    return {**plain, SEAL: hash_of(plain)}


def unsealed(text: bytes) -> Json | None:
    """The JSON object that was sealed, without its checksum; None where this is not what was sealed.

    One without a checksum, written before there were any, is taken as it is.
    """
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            return None
        rest = {key: part for key, part in found.items() if key != SEAL}
        return rest if SEAL not in found or found[SEAL] == hash_of(rest) else None
    except (ValueError, RecursionError):  # also what is not UTF-8
        return None


def remembered(path: Path) -> Json:
    """The sealed object in ``path``; empty where there is none, or it is damaged."""
    return (unsealed(path.read_bytes()) if path.exists() else None) or {}


def read_sealed(path: Path) -> Iterator[Json | None]:
    """Yield each row of a file of sealed rows, None in place of a damaged one; nothing where there is no file."""
    if path.exists():
        with open(path, "rb") as file:
            yield from (unsealed(line) for line in file if line.strip())


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes; a UserError where there is none."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(tr("{path}: no such file; bring it back, or run again what writes it", path=path)) from None


def digest(path: Path) -> str:
    """``sha256`` of a file that is read once in this process while its size and time stay the same."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return sha256(path)  # says what is missing
    return _sha256_then(path, stat.st_mtime_ns, stat.st_size)


def differs(path: Path, known: str) -> bool:
    """Whether this file's sha256 is another than ``known``; one larger than TRUSTED is taken to be the same."""
    return path.stat().st_size <= TRUSTED and digest(path) != known


def lost(path: Path, known: str) -> bool:
    """Whether what was written with this sha256 is gone or is another."""
    return not path.exists() or (path.is_file() and differs(path, known))


def plain(name: object) -> bool:
    """Whether it names a file of a folder, and nothing outside: no separator, no way up, no NUL."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


@cache
def _sha256_then(path: Path, changed: int, size: int) -> str:
    """Several receipts name the same file; it is read once."""
    return sha256(path)


def hash_of(value: Any) -> str:
    """Hex digest of a JSON-able value; key order does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()  # a file name may be no UTF-8


def megabytes(size: float) -> str:
    """A size for people: ``136.0 MiB``, ``17.2 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def without_home(value: Any) -> Any:
    """A JSON-able value in which ``~`` stands for the home wherever a path begins with it, also in a sentence.

    The home's path is the person's name, which no receipt and no report holds.
    """
    homes = {str(home) for home in (Path.home(), Path.home().resolve()) if home.parent != home}
    begins = "|".join(map(re.escape, sorted(homes, key=len, reverse=True)))
    return _each(value, lambda text: re.sub(rf"(?<![\w.~/-])(?:{begins})(?![\w.-])", "~", text)) if homes else value


def with_home(value: Any) -> Any:
    """What ``without_home`` was told: each text that begins with the home's sign begins with its path."""
    return _each(value, lambda text: f"{Path.home()}{text[1:]}" if text == "~" or text.startswith("~/") else text)


def _each(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {_each(key, change): _each(part, change) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each(part, change) for part in value]
    return change(value) if isinstance(value, str) else value
