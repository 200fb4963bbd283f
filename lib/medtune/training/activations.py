"""Activations on disk: what the frozen trunk makes of each example, computed once.

A store holds them in parts, one per pass that added examples, each written atomically. Every example has a checksum; a
run reads it when it asks what is stored, and what is damaged counts as not stored.

Shapes: B examples, T tokens, D hidden size, K deepstack levels, V visual tokens.
"""

from __future__ import annotations

import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from medtune import files
from medtune.errors import UserError
from medtune.files import folders
from medtune.i18n import tr
from medtune.model.architecture import Activations
from medtune.model.padding import TRUNK_TOKENS, padded
from medtune.model.renderer import Example
from medtune.training.rowformat import RowFile, RowFormat
from medtune.training.trunk import Trunk

PART_INDEX = "index.json"
PLACE = ("row", "length", "first", "visual")  # of an example in its part: its rows and its visual rows
_Place = dict[str, int]  # these, and `checksum`; parts of before have none


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Store:
    """Activations on disk by example key; ``folder`` is named by the hash of everything they depend on."""

    def __init__(self, folder: Path, form: RowFormat) -> None:
        self.folder, self.form = folder, form
        self.places: dict[str, tuple[_Part, _Place]] = {}
        self.damaged = 0  # examples that were found not to be as they were stored
        for index in sorted(folder.glob(f"part-*/{PART_INDEX}")):
            self._open(index.parent)

    def _open(self, folder: Path) -> None:
        """A later part replaces what an earlier one has; of a part with a damaged index nothing is stored."""
        try:
            index = files.read_json(folder / PART_INDEX)
        except UserError:
            index = None
        if not isinstance(index, dict):
            self.damaged += 1
            shutil.rmtree(folder, ignore_errors=True)
            return
        part = _Part(folder, self.form, index)
        self.places |= {key: (part, place) for key, place in index.items()}

    def missing(self, examples: Sequence[Example]) -> list[Example]:
        """The examples not stored yet, or damaged, each once."""
        wanted = {example.key: example for example in examples}
        stored = [key for key in wanted if key in self.places]
        with ThreadPoolExecutor() as threads:  # checksums are made outside the interpreter lock
            damaged = [key for key, whole in zip(stored, threads.map(self._whole, stored), strict=True) if not whole]
        self.damaged += len(damaged)
        for key in damaged:
            del self.places[key]
        return [example for key, example in wanted.items() if key not in self.places]

    def _whole(self, key: str) -> bool:
        part, place = self.places[key]
        return part.whole(key, place)

    def bytes_for(self, examples: Sequence[Example]) -> int:
        """Disk that storing ``examples`` takes."""
        return self.form.bytes(sum(len(e.tokens) for e in examples), sum(e.image_tokens for e in examples))

    def check_disk(self, examples: Sequence[Example]) -> int:
        """Bytes needed, or a UserError with both figures where the disk is short."""
        need, free = self.bytes_for(examples), folders.free_bytes(self.folder)
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


class _Part:
    """One part of a store."""

    def __init__(self, folder: Path, form: RowFormat, index: dict[str, Any], made: bool = False) -> None:
        self.folder, self.form, self.index = folder, form, index  # example key -> its place
        tokens, visual = self._sizes if made else (None, None)
        self._hidden = RowFile(folder / "hidden.bin", (form.hidden,), form.dtype, tokens)
        self._positions = RowFile(folder / "positions.bin", (3,), "int32", tokens)
        self._at = RowFile(folder / "visual.bin", (), "int32", visual)
        self._levels = RowFile(folder / "deepstack.bin", (form.levels, form.hidden), form.dtype, visual)

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
        return cls(folder, form, index, made=True)

    def whole(self, key: str, place: Any) -> bool:
        """Whether an example is as it was stored; of one without a checksum only that it is there."""
        known = isinstance(place, dict) and set(place) - {"checksum"} == set(PLACE)
        if not known or not all(isinstance(value, int) for value in place.values()):
            return False
        if "checksum" in place:
            return place["checksum"] == self._checksum(key, place)
        hidden, positions, at, levels = map(len, self._stored(place))
        seen = not self.form.levels or at == levels == place["visual"]
        return hidden == positions == place["length"] and seen

    def _checksum(self, key: str, place: _Place) -> int:
        """Over an example's key, its place and all that is stored there."""
        found = zlib.crc32(repr((key, *(place[name] for name in PLACE))).encode())
        for array in self._stored(place):
            found = zlib.crc32(array.view(np.uint8).data, found)
        return found

    def _stored(self, place: _Place) -> tuple[np.ndarray, ...]:
        """All arrays of an example as they lie in the files; shorter where a file is."""
        rows = slice(place["row"], place["row"] + place["length"])
        visual = slice(place["first"], place["first"] + place["visual"])
        return self._hidden[rows], self._positions[rows], self._at[visual], self._levels[visual]

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
        """Write everything to disk, the index with the checksums last."""
        for rows in (self._hidden, self._positions, self._at, self._levels):
            rows.close()
        index = {key: {**place, "checksum": self._checksum(key, place)} for key, place in self.index.items()}
        files.write_json(self.folder / PART_INDEX, index)


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
