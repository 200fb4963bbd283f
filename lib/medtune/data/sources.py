"""Sources: files of raw rows, JSON lines or JSON arrays in UTF-8 or GB18030, read as a stream, and their layouts."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from medtune import files
from medtune.data import layouts
from medtune.data.layouts import Layout
from medtune.errors import UserError, raise_all
from medtune.i18n import tr
from medtune.schemas import Source

SUFFIXES = (".jsonl", ".json")
SKIPPED = "SOURCE_CARD"  # the card that says where a source comes from
ENCODINGS = ("utf-8", "gb18030")
BLOCK = 2**20
DEEPEST = 100  # levels of lists and objects in a row; far more than that no code can walk through
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # half a character, as JSON escapes it


@dataclass(frozen=True)
class Row:
    """One JSON value of a file, or the reason why there is none."""

    number: int  # from 1: its line, or its place in the array
    line: int  # on which it starts, from 1
    value: Any
    position: int  # bytes of the file read so far; for a progress bar
    fault: str = ""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source and how it is read."""

    path: Path
    name: str  # in ids, no other file's: the source's name and the file's place in it
    folder: Path  # of the source; images are also looked for from here
    settings: Source
    layout: Layout


def open_sources(wanted: Iterable[Source], out: Path) -> list[SourceFile]:
    """The files of all sources in order, each once, with their layouts; raises one UserError for all that is wrong.

    ``out``, the data set to be made, may lie inside a source; it is not read.
    """
    found: dict[Path, SourceFile] = {}
    problems: list[str] = []
    for source in wanted:
        path = Path(os.path.expanduser(source.path))  # that of pathlib raises where there is no such person
        try:
            for file in files_of(path):
                if file.resolve() not in found and not file.resolve().is_relative_to(out.resolve()):
                    found[file.resolve()] = _open(file, path, source)
        except UserError as error:
            problems.append(str(error))
    if not found and not problems:
        problems.append(tr("there is no source; name one on the command line or in `sources`"))
    raise_all(problems, tr("sources"))
    return _told_apart(list(found.values()))


def _told_apart(found: list[SourceFile]) -> list[SourceFile]:
    """The files, those that share a name named by the shortest end of their path that tells them apart."""
    length = 0
    while shared := [name for name, times in Counter(file.name for file in found).items() if times > 1]:
        length += 1
        found = [
            replace(file, name="/".join(file.path.resolve().parts[-length:])) if file.name in shared else file
            for file in found
        ]
    return found


def _open(file: Path, path: Path, source: Source) -> SourceFile:
    files.check_name(file)
    files.check_regular(file)
    try:
        file.open("rb").close()
    except OSError as error:
        raise UserError(
            tr("{path}: cannot be read ({fault}); check its permissions", path=file, fault=error.strerror)
        ) from None
    folder = path if path.is_dir() else path.parent
    name = file.relative_to(folder).with_suffix("").as_posix()
    name = f"{path.resolve().name}/{name}" if path.is_dir() else name
    if source.layout != "auto":
        return SourceFile(file, name, folder, source, layouts.named(source.layout))
    sample = list(islice(rows(file), layouts.SAMPLE))
    if sample and all(row.fault for row in sample):
        raise UserError(
            tr("{path}: neither one JSON value on each line nor one array ({fault})", path=file, fault=sample[0].fault)
        )
    try:
        return SourceFile(file, name, folder, source, layouts.detect([row.value for row in sample]))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def files_of(path: Path) -> list[Path]:
    """The data files at ``path``: itself, or all in the folder; raises a UserError where there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(tr("{path}: no such file or folder; check `sources` and the command line", path=path))
    found = [file for file in sorted(path.rglob("*")) if _is_data(file.relative_to(path)) and file.is_file()]
    if not found:
        raise UserError(tr("{path}: no .jsonl or .json file in this folder; put your data there", path=path))
    return found


def _is_data(inside: Path) -> bool:
    hidden = any(part.startswith(".") for part in inside.parts)
    return inside.suffix.lower() in SUFFIXES and not hidden and not inside.stem.startswith(SKIPPED)


def rows(path: Path) -> Iterator[Row]:
    """Stream the rows of a file. What it holds decides, not its suffix: an array where it starts with ``[``."""
    with open(path, encoding=encoding_of(path)) as file:
        while (block := file.read(BLOCK)) and block.isspace():
            pass
        start = block.lstrip()[:1]
        file.seek(0)
        if not start:
            raise UserError(tr("{path}: the file is empty", path=path))
        yield from _array(file, path) if start == "[" else _lines(file)


def encoding_of(path: Path) -> str:
    """utf-8-sig, utf-8 or gb18030: the first that decodes the whole file."""
    with open(path, "rb") as file:
        if file.read(3) == codecs.BOM_UTF8:
            return "utf-8-sig"
    for encoding in ENCODINGS:
        if _decodes(path, encoding):
            return encoding
    raise UserError(tr("{path}: neither UTF-8 nor GB18030 text; save it as UTF-8", path=path))


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _lines(file: TextIO) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        position = file.buffer.tell()
        try:
            value = json.loads(line)
            fault = _oddity(line, value)
        except json.JSONDecodeError as error:
            value, fault = None, f"{error.msg}, column {error.colno}"
        except (ValueError, RecursionError) as error:  # an integer of thousands of digits, thousands of brackets
            value, fault = None, str(error)
        yield Row(number, number, line.rstrip("\n") if fault else value, position, fault)


def _oddity(text: str, value: Any) -> str:
    """What is wrong with a row that Python takes for JSON but cannot encode or walk through; "" for nothing."""
    if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
        return f"more than {DEEPEST} levels deep"
    if SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            return f"half a character, {error.object[error.start]!a}"
    return ""


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, (list, dict))]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _array(file: TextIO, path: Path) -> Iterator[Row]:
    """The items of a JSON array, without ever holding more of it than one item and a block."""
    decoder = json.JSONDecoder()
    text, place, line, block = file.read(BLOCK), 0, 1, BLOCK
    number, opened = 0, False
    while True:
        fresh = place
        while place < len(text) and (text[place].isspace() or text[place] == "," or not opened):
            opened = opened or text[place] == "["
            place += 1
        line += text.count("\n", fresh, place)
        if place < len(text) and text[place] == "]":
            _at_end(file, path, text[place + 1 :], line)
            return
        try:
            value, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            more = file.read(block)
            if not more:
                at = line + text.count("\n", place, error.pos)
                raise UserError(tr("{path}:{line}: not JSON ({fault})", path=path, line=at, fault=error.msg)) from None
            text, place, block = text[place:] + more, 0, block * 2  # doubling: a huge item is not parsed over and over
            continue
        except (ValueError, RecursionError) as error:  # where the item would end cannot be told
            raise UserError(tr("{path}:{line}: not JSON ({fault})", path=path, line=line, fault=error)) from None
        number += 1
        fault = _oddity(text[place:end], value)
        yield Row(number, line, text[place:end] if fault else value, file.buffer.tell(), fault)
        line += text.count("\n", place, end)
        place, block = end, BLOCK


def _at_end(file: TextIO, path: Path, rest: str, line: int) -> None:
    """Raise a UserError where more than space follows the array; ``rest`` of the text begins on ``line``."""
    while not rest.strip() and (more := file.read(BLOCK)):
        line += rest.count("\n")
        rest = more
    if rest.strip():
        line += rest.count("\n", 0, len(rest) - len(rest.lstrip()))
        raise UserError(
            tr(
                "{path}:{line}: more follows the array; put all rows into one array, or one on each line",
                path=path,
                line=line,
            )
        )
