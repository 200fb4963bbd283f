"""Rows of numbers in a file that may be larger than memory."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

import numpy as np

from medtune import files


class Rows:
    """A file of rows: mapped for reading; one that is made also written to, plainly.

    On a full disk a write is an error that says so; a write through a map ends the process without a word.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str, made: bool) -> None:
        rows, *row = shape
        self._path, self._dtype, self._row = path, np.dtype(dtype), prod(row) * np.dtype(dtype).itemsize
        self._file = open(path, "wb", buffering=0) if made else None  # noqa: SIM115 - open until it is closed
        if self._file:
            with files.named(path):
                self._file.truncate(rows * self._row)
        else:  # as many as there are, whatever the index says
            rows = (path.stat().st_size if path.exists() else 0) // max(1, self._row)
        empty = 0 in (rows, *row)  # an empty file cannot be mapped
        self._map = np.zeros((rows, *row), dtype) if empty else np.memmap(path, dtype, "r", shape=(rows, *row))

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
