"""Tensors on disk: safetensors headers and raw bytes, without any framework.

What is copied as bytes is bit-identical by construction; nothing here interprets a number.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from medtune import files
from medtune.errors import UserError, raise_all
from medtune.i18n import tr

INDEX = "model.safetensors.index.json"
FORMAT = {"format": "mlx"}  # without it LM Studio's indexer takes the folder for a PyTorch model, or for none
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1}
WIDTH |= {"BOOL": 1, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8}
NARROW = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # bits; types of the format that nothing here computes with
MOST_AXES = 16
PADDING = 64  # bytes between two tensors; the reference implementation allows none
CHUNK = 2**22  # bytes read at once
LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library


@dataclass(frozen=True)
class Tensor:
    """A tensor's place in a file."""

    name: str
    file: Path
    dtype: str  # as safetensors writes it: BF16, U32 ...
    shape: tuple[int, ...]
    offset: int  # of the first byte in the file
    nbytes: int

    def read(self, first: int = 0, last: int | None = None) -> bytes:
        """Bytes of rows [first, last) when all but the last axis are counted as rows."""
        row = self.nbytes // max(1, self.rows)
        last = self.rows if last is None else last
        with open(self.file, "rb") as file:
            file.seek(self.offset + first * row)
            return file.read((last - first) * row)

    @property
    def rows(self) -> int:
        """Product of all axes but the last."""
        return prod(self.shape[:-1])

    def chunks(self) -> Iterator[bytes]:
        """The tensor's bytes, a few MiB at a time."""
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            left = self.nbytes
            while left:
                chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise UserError(tr("{path}: cut short; copy or download the model again", path=self.file))
                left -= len(chunk)
                yield chunk


@dataclass(frozen=True)
class Shard:
    """One safetensors file: its metadata and its tensors in the order of their bytes."""

    path: Path
    metadata: dict[str, str] | None
    tensors: tuple[Tensor, ...]

    @classmethod
    def open(cls, path: Path) -> Shard:
        """Read the header; a file that is no safetensors file, whose tensors do not lie one after the other in the
        size their shapes give, or that is cut short, is a UserError.
        """
        files.check_regular(path)
        try:
            with open(path, "rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length if length <= LONGEST_HEADER else 0))
            metadata = _metadata(header.pop("__metadata__", None))
            found = [_tensor(path, 8 + length, name, entry) for name, entry in header.items()]
        except (struct.error, AttributeError, KeyError, TypeError, ValueError, RecursionError):  # not of this form
            raise UserError(tr("{path}: not a safetensors file; copy or download it again", path=path)) from None
        tensors = sorted(found, key=lambda tensor: (tensor.offset, tensor.nbytes))
        end = 8 + length
        for tensor in tensors:
            if not end <= tensor.offset <= end + PADDING:
                raise UserError(
                    tr(
                        "{path}: {name} does not lie where it should; copy or download it again",
                        path=path,
                        name=tensor.name,
                    )
                )
            end = tensor.offset + tensor.nbytes
        if end != path.stat().st_size:
            raise UserError(
                tr(
                    "{path}: {found} bytes instead of {wanted}; copy or download it again",
                    path=path,
                    found=path.stat().st_size,
                    wanted=end,
                )
            )
        return cls(path, metadata, tuple(tensors))

    @property
    def is_mlx(self) -> bool:
        """Whether the header carries what LM Studio looks for."""
        return isinstance(self.metadata, dict) and self.metadata.get("format") == "mlx"


def _tensor(path: Path, data: int, name: str, entry: dict[str, Any]) -> Tensor:
    """A tensor of the header; a KeyError, TypeError or ValueError where its entry makes no sense."""
    (first, last), shape = entry["data_offsets"], entry["shape"]
    numbers = [first, last, *shape]
    if not isinstance(shape, list) or any(type(number) is not int or number < 0 for number in numbers):
        raise TypeError(name)
    bits = NARROW.get(entry["dtype"]) or 8 * WIDTH[entry["dtype"]]
    if len(shape) > MOST_AXES or (last - first) * 8 != prod(shape) * bits:
        raise ValueError(name)
    return Tensor(name, path, entry["dtype"], tuple(shape), data + first, last - first)


def _metadata(found: Any) -> dict[str, str] | None:
    """What the header says beside its tensors; MLX writes null for nothing. A TypeError where it is not texts."""
    if found is not None and not all(isinstance(value, str) for value in found.values()):
        raise TypeError("__metadata__")
    return found


@dataclass(frozen=True)
class Weights:
    """All tensors of a model folder."""

    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, folder: Path) -> Weights:
        """The weight files of ``folder``: those its index names and that are there, else `model*.safetensors`.

        Many published conversions carry the index of another format, so an index is a hint. Two tensors of one name
        are a UserError.
        """
        shards = tuple(Shard.open(path) for path in weight_files(folder))
        names = [tensor.name for shard in shards for tensor in shard.tensors]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        raise_all([tr("{name} stands in two files", name=name) for name in twice], str(folder))
        return cls(shards)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        return {tensor.name: tensor for shard in self.shards for tensor in shard.tensors}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def named_by(index: Path) -> list[str]:
    """The weight files that an index names, sorted; none where there is no index or it names none.

    A UserError where it is no index, or names what is no file beside it.
    """
    if not index.exists():
        return []
    found = files.read_object(index).get("weight_map") or {}
    names: list[Any] = list(found.values()) if isinstance(found, dict) else [found]
    wrong = [name for name in names if not files.plain(name)]
    if wrong:
        raise UserError(
            tr("{path}: names {found!r}, no file of this folder; download the model again", path=index, found=wrong[0])
        )
    return sorted(set(names))


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the model's tensors, sorted by name."""
    index = folder / INDEX
    named = named_by(index)
    found = [folder / name for name in named if (folder / name).exists()] or sorted(folder.glob("model*.safetensors"))
    if not found:
        raise UserError(tr("{folder}: no *.safetensors weights; download the model again", folder=folder))
    return found


@dataclass(frozen=True)
class HeaderEntry:
    """A tensor to be written: what the header says of it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of its bytes."""
        return prod(self.shape) * WIDTH[self.dtype]


def write_shard(
    path: Path, entries: list[HeaderEntry], chunks: Iterable[bytes], metadata: dict[str, str] = FORMAT
) -> None:
    """Write one safetensors file; ``chunks`` are the bytes of ``entries`` in their order, cut anywhere."""
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the reference implementation aligns the data to 8 bytes
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        written = sum(file.write(chunk) for chunk in chunks)
    if written != offset:
        raise ValueError(f"{path}: {written} bytes for {offset} announced")


def index_of(shards: Iterable[Shard]) -> dict[str, Any]:
    """The index file's content for these shards."""
    shards = list(shards)
    tensors = [(tensor.name, shard.path.name, tensor.nbytes) for shard in shards for tensor in shard.tensors]
    return {
        "metadata": {"total_size": sum(nbytes for _, _, nbytes in tensors)},
        "weight_map": {name: file for name, file, _ in sorted(tensors)},
    }
