"""The frozen trunk: everything below the adapted layers, run once per example and kept on disk.

LoRA on the last N decoder layers leaves vision tower, embeddings and lower layers as they are, so an example's
activations at the first adapted layer are the same in every epoch, run and sweep. A store holds them in parts, one per
pass that added examples, each memory-mapped and written atomically.

Shapes: B examples, T tokens, D hidden size, K deepstack levels, V visual tokens.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model.architecture import Activations, Architecture
from medtune.model.renderer import Chat, Example
from medtune.training import sampler

PASS_TOKENS = 4096  # of one trunk batch
PART_INDEX = "index.json"


class Trunk:
    """Runs the lower part of a model: images and tokens -> activations at decoder layer ``first``."""

    def __init__(self, architecture: Architecture, chat: Chat, first: int, neftune: float = 0.0) -> None:
        self.architecture, self.chat, self.first, self.neftune = architecture, chat, first, neftune

    def cuts(self, group: int) -> list[tuple[int, int]]:
        """The layers [0, first) in ranges of ``group``; the deepstack levels stay within the first range."""
        end = min(self.first, max(group, self.architecture.deepstack_levels))
        return [(0, end)] + [(start, min(start + group, self.first)) for start in range(end, self.first, max(group, 1))]

    def __call__(self, examples: Sequence[Example]) -> Activations:
        """Activations of a batch, right-padded; noisy embeddings with NEFTune while the model is in training mode."""
        inputs = self.embed(examples)
        h = inputs.h
        if self.neftune and self.architecture.model.training:
            h = h + neftune_noise(h.shape, self.neftune).astype(h.dtype)
        h = self.architecture.run(0, self.first, inputs._replace(h=h))
        return Activations(h, inputs.positions, _above(inputs.deepstack, self.first))

    def embed(self, examples: Sequence[Example]) -> Activations:
        """Embeddings with the images in place, positions and all deepstack levels of a batch."""
        tokens = mx.array(sampler.token_matrix(examples))
        return self.architecture.embed(tokens, *_joined([self.chat.pixels(example) for example in examples]))


def neftune_noise(shape: Sequence[int], alpha: float) -> mx.array:
    """Uniform noise in +-alpha / sqrt(T * D) for embeddings (B, T, D) (Jain et al. 2023)."""
    bound = alpha / math.sqrt(shape[1] * shape[2])
    return mx.random.uniform(-bound, bound, shape)


def _joined(
    pairs: Sequence[tuple[np.ndarray | None, np.ndarray | None]],
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Patches and grids of all images of a batch, in order."""
    patches = [pixels for pixels, _ in pairs if pixels is not None]
    grids = [grid for _, grid in pairs if grid is not None]
    return (np.concatenate(patches), np.concatenate(grids)) if patches else (None, None)


def _above(deepstack: mx.array | None, first: int) -> mx.array | None:
    """The levels if any is still to be added at layer ``first`` or above, else None."""
    return None if deepstack is None or deepstack.shape[0] <= first else deepstack


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def example_key(example: Example) -> str:
    """Hash of what the trunk's result depends on: the tokens and the bytes of the images."""
    digest = hashlib.sha256(example.tokens.tobytes())
    for path in example.images:
        digest.update(bytes.fromhex(files.sha256(path)))
    return digest.hexdigest()


@dataclass(frozen=True)
class Layout:
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

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        self.places: dict[str, tuple[_Part, dict[str, int]]] = {}
        for index in sorted(folder.glob(f"part-*/{PART_INDEX}")):
            self._open(index.parent)

    def _open(self, folder: Path) -> None:
        part = _Part(folder, self.layout)
        for key, place in part.index.items():
            self.places[key] = (part, place)

    def missing(self, examples: Sequence[Example]) -> list[Example]:
        """The examples not stored yet, each once."""
        return list({k: e for e in examples if (k := example_key(e)) not in self.places}.values())

    def bytes_for(self, examples: Sequence[Example]) -> int:
        """Disk that storing ``examples`` takes."""
        return self.layout.bytes(sum(len(e.tokens) for e in examples), sum(e.image_tokens for e in examples))

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
        part = _Part.create(partial, self.layout, examples)
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
        return _gather([self.places[key] for key in keys], self.layout, width)


@dataclass(frozen=True)
class Stored:
    """Activations as bits in numpy arrays, shaped as in ``Activations``."""

    h: np.ndarray
    positions: np.ndarray
    deepstack: np.ndarray | None
    layout: Layout

    def to_mlx(self) -> Activations:
        """The same in the model's dtype."""
        deepstack = None if self.deepstack is None else self.layout.to_mlx(self.deepstack)
        return Activations(self.layout.to_mlx(self.h), mx.array(self.positions), deepstack)


class _Part:
    """One memory-mapped part of a store."""

    def __init__(self, folder: Path, layout: Layout, mode: str = "r") -> None:
        self.folder, self.layout = folder, layout
        tokens, visual = self._sizes
        self._hidden = self._map("hidden.bin", (tokens, layout.hidden), layout.dtype, mode)
        self._positions = self._map("positions.bin", (tokens, 3), "int32", mode)
        self._at = self._map("visual.bin", (visual,), "int32", mode)
        self._levels = self._map("deepstack.bin", (visual, layout.levels, layout.hidden), layout.dtype, mode)

    @cached_property
    def index(self) -> dict[str, dict[str, int]]:
        """Example key -> row, length, first visual row, visual rows."""
        return files.read_json(self.folder / PART_INDEX)

    @property
    def _sizes(self) -> tuple[int, int]:
        places = self.index.values()
        return sum(p["length"] for p in places), sum(p["visual"] for p in places)

    def _map(self, name: str, shape: tuple[int, ...], dtype: str, mode: str) -> np.ndarray:
        if 0 in shape:  # an empty file cannot be mapped
            return np.zeros(shape, dtype)
        return np.memmap(self.folder / name, dtype, mode, shape=shape)  # type: ignore[call-overload]

    @classmethod
    def create(cls, folder: Path, layout: Layout, examples: Sequence[Example]) -> _Part:
        """An empty part with room for ``examples``."""
        folder.mkdir()
        index, row, first = {}, 0, 0
        for example in examples:
            length, visual = len(example.tokens), example.image_tokens
            index[example_key(example)] = {"row": row, "length": length, "first": first, "visual": visual}
            row, first = row + length, first + visual
        files.write_json(folder / PART_INDEX, index)
        return cls(folder, layout, "w+")

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
        places = [self.index[example_key(example)] for example in examples]
        if start == 0:
            inputs = trunk.embed(examples)
            if self.layout.levels and inputs.deepstack is not None:
                self._write_visual(trunk, examples, places, inputs.deepstack)
        else:
            width = sampler.padded(max(place["length"] for place in places))
            inputs = _gather([(self, place) for place in places], self.layout, width).to_mlx()
        bits = self.layout.to_bits(trunk.architecture.run(start, end, inputs))
        positions = np.array(inputs.positions, copy=False)
        for row, place in enumerate(places):
            span = slice(place["row"], place["row"] + place["length"])
            self._hidden[span] = bits[row, : place["length"]]
            self._positions[span] = positions[:, row, : place["length"]].T

    def _write_visual(
        self, trunk: Trunk, examples: Sequence[Example], places: Sequence[dict[str, int]], deepstack: mx.array
    ) -> None:
        bits = self.layout.to_bits(deepstack)
        for row, (example, place) in enumerate(zip(examples, places, strict=True)):
            at = np.flatnonzero(example.tokens == trunk.chat.image_token)
            span = slice(place["first"], place["first"] + place["visual"])
            self._at[span] = at
            self._levels[span] = bits[:, row, at].swapaxes(0, 1)

    def close(self) -> None:
        """Write everything to disk."""
        for array in (self._hidden, self._positions, self._at, self._levels):
            if isinstance(array, np.memmap):
                array.flush()


def _gather(places: Sequence[tuple[_Part, dict[str, int]]], layout: Layout, width: int) -> Stored:
    shape = (len(places), width, layout.hidden)
    h = np.zeros(shape, layout.dtype)
    positions = np.zeros((3, *shape[:2]), np.int32)
    has_images = layout.levels and any(place["visual"] for _, place in places)
    deepstack = np.zeros((layout.levels, *shape), layout.dtype) if has_images else None
    for row, (part, place) in enumerate(places):
        length = place["length"]
        h[row, :length], positions[:, row, :length] = part.rows(place)
        if deepstack is not None and place["visual"]:
            at, levels = part.visual(place)
            deepstack[:, row, at] = levels
    return Stored(h, positions, deepstack, layout)


def _pass_batches(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Examples of like length, as many as hold about PASS_TOKENS tokens."""
    batch: list[Example] = []
    for example in sorted(examples, key=lambda e: -len(e.tokens)):
        if batch and sampler.padded(len(batch[0].tokens)) * (len(batch) + 1) > PASS_TOKENS:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch
