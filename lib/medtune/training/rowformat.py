"""How activations are stored: rows in a file, their sizes and type, as numpy keeps them and as MLX computes with them.

A file is mapped for reading only: on a full disk a write is an error that says so, a write through a map ends the
process without a word.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np

from medtune import files


@dataclass(frozen=True)
class RowFormat:
    """Sizes of one stored row."""

    hidden: int
    dtype: str  # numpy name of the stored bits: float32, or uint16 for 16-bit floats
    mlx_dtype: str
    levels: int  # deepstack levels stored per visual token

    def bytes(self, tokens: int, visual: int) -> int:
        """Bytes of ``tokens`` tokens of which ``visual`` belong to images."""
        item = np.dtype(self.dtype).itemsize
        return tokens * (self.hidden * item + 3 * 4) + visual * (4 + self.levels * self.hidden * item)

    def to_mlx(self, bits: np.ndarray) -> mx.array:
        """Stored bits as an array of the model's dtype."""
        array = mx.array(bits)
        dtype = getattr(mx, self.mlx_dtype)
        return array if array.dtype == dtype else array.view(dtype)

    def to_bits(self, array: mx.array) -> np.ndarray:
        """The inverse of ``to_mlx``; waits for the array."""
        return np.array(array if self.dtype == "float32" else array.view(mx.uint16), copy=False)


class RowFile:
    """A file of rows of the shape ``row``: of ``count`` it is made and written to, of None all it has are read."""

    def __init__(self, path: Path, row: tuple[int, ...], dtype: str, count: int | None) -> None:
        self._path, self._dtype = path, np.dtype(dtype)
        self._row = prod(row) * self._dtype.itemsize  # bytes
        self._file = None if count is None else open(path, "wb", buffering=0)  # noqa: SIM115 - until it is closed
        if self._file and count is not None:
            with files.named(path):
                self._file.truncate(count * self._row)
        else:
            count = path.stat().st_size // max(1, self._row) if path.exists() else 0
        shape = (count, *row)
        # an empty file cannot be mapped
        self._map = np.zeros(shape, dtype) if 0 in shape else np.memmap(path, dtype, "r", shape=shape)

    def __getitem__(self, span: slice) -> np.ndarray:
        return self._map[span]

    def __setitem__(self, span: slice, values: np.ndarray) -> None:
        assert self._file
        data = np.ascontiguousarray(values, self._dtype).reshape(-1).view(np.uint8).data
        with files.named(self._path):
            self._file.seek(span.start * self._row)
            while data:
                data = data[self._file.write(data) :]

    def close(self) -> None:
        """Write everything to disk."""
        if self._file:
            with files.named(self._path):
                os.fsync(self._file.fileno())
            self._file.close()
