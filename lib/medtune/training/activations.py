"""Activations on disk: what the frozen trunk makes of each example, computed once.

A store holds them in parts, one per pass that added examples, each written atomically and mapped for reading only: on a
full disk a write is an error that says so, a write through a map ends the process without a word.

Shapes: B examples, T tokens, D hidden size, K deepstack levels, V visual tokens.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model.architecture import Activations
from medtune.model.padding import TRUNK_TOKENS, padded
from medtune.model.renderer import Example
from medtune.training.trunk import Trunk

PART_INDEX = "index.json"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


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


class Store:
    """Activations on disk by example key; ``folder`` is named by the hash of everything they depend on."""

    def __init__(self, folder: Path, form: RowFormat) -> None:
        self.folder, self.form = folder, form
        self.places: dict[str, tuple[_Part, dict[str, int]]] = {}
        for index in sorted(folder.glob(f"part-*/{PART_INDEX}")):
            self._open(index.parent)

    def _open(self, folder: Path) -> None:
        part = _Part(folder, self.form)
        for key, place in part.index.items():
            self.places[key] = (part, place)

    def missing(self, examples: Sequence[Example]) -> list[Example]:
        """The examples not stored yet, each once."""
        return list({k: e for e in examples if (k := e.key) not in self.places}.values())

    def bytes_for(self, examples: Sequence[Example]) -> int:
        """Disk that storing ``examples`` takes."""
        return self.form.bytes(sum(len(e.tokens) for e in examples), sum(e.image_tokens for e in examples))

    def check_disk(self, examples: Sequence[Example]) -> int:
        """Bytes needed, or a UserError with both figures where the disk is short."""
        need, free = self.bytes_for(examples), files.free_bytes(self.folder)
        if need > 0.9 * free:
            raise UserError(
                tr(
                    "{folder}: the trunk cache needs {need}, {free} are free; free some disk, or set trunk_cache: off",
                    folder=self.folder,
                    need=files.megabytes(need),
                    free=files.megabytes(free),
                )
            )
        return need

    def fill(self, trunk: Trunk, examples: Sequence[Example], group: int, tick: Callable[[int], None]) -> None:
        """Run ``trunk`` on ``examples`` and store the result as one new part.

        ``group`` decoder layers are in memory at a time: each group is run over all examples, then dropped, so the
        trunk's model is used up. ``tick`` is called with the tokens of each batch that went through each group.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in self.folder.glob(".partial-*"):
            if not _alive(int(stale.name.rpartition("-")[2])):
                shutil.rmtree(stale)
        partial = self.folder / f".partial-{os.getpid()}"  # another process of this machine may be writing too
        shutil.rmtree(partial, ignore_errors=True)
        part = _Part.create(partial, self.form, examples)
        for start, end in trunk.cuts(group):
            for chosen in _pass_batches(examples):
                part.advance(trunk, chosen, start, end)
                tick(sum(len(example.tokens) for example in chosen))
            trunk.architecture.drop(start, end)
        part.close()
        final = self.folder / f"part-{time.time_ns()}-{os.getpid()}"
        partial.rename(final)
        self._open(final)

    def batch(self, keys: Sequence[str], width: int) -> Stored:
        """Activations of stored examples, zero-padded to ``width`` tokens; no MLX is called, so any thread may."""
        return _gather([self.places[key] for key in keys], self.form, width)


@dataclass(frozen=True)
class Stored:
    """Activations as bits in numpy arrays, shaped as in ``Activations``."""

    h: np.ndarray
    positions: np.ndarray
    deepstack: np.ndarray | None
    form: RowFormat

    def to_mlx(self) -> Activations:
        """The same in the model's dtype."""
        deepstack = None if self.deepstack is None else self.form.to_mlx(self.deepstack)
        return Activations(self.form.to_mlx(self.h), mx.array(self.positions), deepstack)


class _Rows:
    """A file of rows: mapped for reading; while a part is made, also written to, plainly."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str, made: bool) -> None:
        self._path, self._dtype, self._row = path, np.dtype(dtype), prod(shape[1:]) * np.dtype(dtype).itemsize
        size = prod(shape) * self._dtype.itemsize
        self._file = open(path, "wb", buffering=0) if made else None  # noqa: SIM115 - open until it is closed
        if self._file:
            with files.named(path):
                self._file.truncate(size)
        # an empty file cannot be mapped
        self._map = np.memmap(path, dtype, "r", shape=shape) if size else np.zeros(shape, dtype)

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


class _Part:
    """One part of a store."""

    def __init__(self, folder: Path, form: RowFormat, made: bool = False) -> None:
        self.folder, self.form = folder, form
        tokens, visual = self._sizes
        self._hidden = _Rows(folder / "hidden.bin", (tokens, form.hidden), form.dtype, made)
        self._positions = _Rows(folder / "positions.bin", (tokens, 3), "int32", made)
        self._at = _Rows(folder / "visual.bin", (visual,), "int32", made)
        self._levels = _Rows(folder / "deepstack.bin", (visual, form.levels, form.hidden), form.dtype, made)

    @cached_property
    def index(self) -> dict[str, dict[str, int]]:
        """Example key -> row, length, first visual row, visual rows."""
        return files.read_json(self.folder / PART_INDEX)

    @property
    def _sizes(self) -> tuple[int, int]:
        places = self.index.values()
        return sum(p["length"] for p in places), sum(p["visual"] for p in places)

    @classmethod
    def create(cls, folder: Path, form: RowFormat, examples: Sequence[Example]) -> _Part:
        """An empty part with room for ``examples``."""
        folder.mkdir()
        index, row, first = {}, 0, 0
        for example in examples:
            length, visual = len(example.tokens), example.image_tokens
            index[example.key] = {"row": row, "length": length, "first": first, "visual": visual}
            row, first = row + length, first + visual
        files.write_json(folder / PART_INDEX, index)
        return cls(folder, form, made=True)

    def rows(self, place: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Hidden rows (length, D) and positions (3, length) of one example."""
        span = slice(place["row"], place["row"] + place["length"])
        return self._hidden[span], self._positions[span].T

    def visual(self, place: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Visual positions (V,) and deepstack levels (K, V, D) of one example."""
        span = slice(place["first"], place["first"] + place["visual"])
        return self._at[span], self._levels[span].swapaxes(0, 1)

    def advance(self, trunk: Trunk, examples: Sequence[Example], start: int, end: int) -> None:
        """Take a batch from layer ``start`` (0: from its tokens) to layer ``end`` and write it back."""
        places = [self.index[example.key] for example in examples]
        if start == 0:
            inputs = trunk.embed(examples)
            if self.form.levels and inputs.deepstack is not None:
                self._write_visual(trunk, examples, places, inputs.deepstack)
        else:
            width = padded(max(place["length"] for place in places))
            inputs = _gather([(self, place) for place in places], self.form, width).to_mlx()
        bits = self.form.to_bits(trunk.architecture.run(start, end, inputs))
        positions = np.array(inputs.positions, copy=False)
        for row, place in enumerate(places):
            span = slice(place["row"], place["row"] + place["length"])
            self._hidden[span] = bits[row, : place["length"]]
            self._positions[span] = positions[:, row, : place["length"]].T

    def _write_visual(
        self, trunk: Trunk, examples: Sequence[Example], places: Sequence[dict[str, int]], deepstack: mx.array
    ) -> None:
        bits = self.form.to_bits(deepstack)
        for row, (example, place) in enumerate(zip(examples, places, strict=True)):
            at = np.flatnonzero(example.tokens == trunk.renderer.image_token)
            span = slice(place["first"], place["first"] + place["visual"])
            self._at[span] = at
            self._levels[span] = bits[:, row, at].swapaxes(0, 1)

    def close(self) -> None:
        """Write everything to disk."""
        for rows in (self._hidden, self._positions, self._at, self._levels):
            rows.close()


def _gather(places: Sequence[tuple[_Part, dict[str, int]]], form: RowFormat, width: int) -> Stored:
    shape = (len(places), width, form.hidden)
    h = np.zeros(shape, form.dtype)
    positions = np.zeros((3, *shape[:2]), np.int32)
    has_images = form.levels and any(place["visual"] for _, place in places)
    deepstack = np.zeros((form.levels, *shape), form.dtype) if has_images else None
    for row, (part, place) in enumerate(places):
        length = place["length"]
        h[row, :length], positions[:, row, :length] = part.rows(place)
        if deepstack is not None and place["visual"]:
            at, levels = part.visual(place)
            deepstack[:, row, at] = levels
    return Stored(h, positions, deepstack, form)


def _pass_batches(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Examples of like length, as many as hold about TRUNK_TOKENS tokens."""
    batch: list[Example] = []
    for example in sorted(examples, key=lambda e: -len(e.tokens)):
        if batch and padded(len(batch[0].tokens)) * (len(batch) + 1) > TRUNK_TOKENS:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch
