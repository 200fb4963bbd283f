"""The vision tower of a model: its modules, and the widths its working memory depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medtune.model import families
from medtune.model.families import Vision
from medtune.planner.weights import ModuleShape, Part


@dataclass(frozen=True)
class Tower:
    """Shape of a vision tower and its mergers."""

    path: str
    build: Vision
    hidden: int
    inner: int
    heads: int
    depth: int
    out: int  # hidden size of the language model
    merge: int  # patches a side that become one visual token
    patch: int  # numbers a patch
    positions: int  # learned positions, 0 for none
    levels: int  # deepstack: decoder layers that get visual features added

    @classmethod
    def of(cls, config: dict[str, Any]) -> Tower | None:
        """The tower of this config.json; None for a text-only model."""
        family, vision = families.of(config), config.get("vision_config")
        build = family.vision
        if vision is None or build is None:
            return None
        hidden, side = vision[build.hidden], vision["patch_size"]
        return cls(
            path=family.library.tower,
            build=build,
            hidden=hidden,
            inner=int(hidden * (vision.get(build.ratio) or 4)) if build.ratio else vision[build.inner],
            heads=vision["num_heads"],
            depth=vision["depth"],
            out=vision[build.out],
            merge=vision["spatial_merge_size"],
            patch=(vision.get("in_channels") or 3) * (vision.get("temporal_patch_size") or 2) * side**2,
            positions=vision[build.positions] if build.positions else 0,
            levels=len(vision.get(build.levels) or ()),
        )

    def modules(self) -> Iterator[ModuleShape]:
        """Patch embedding, blocks, merger and deepstack mergers."""
        bias = self.hidden if self.build.patch_bias else 0
        yield ModuleShape(f"{self.path}.patch_embed.proj", "vision", (self.hidden, self.patch), bias, linear=False)
        if self.positions:
            yield ModuleShape(f"{self.path}.pos_embed", "vision", (self.positions, self.hidden), linear=False)
        for block in range(self.depth):
            yield from self._block(f"{self.path}.blocks.{block}")
        merger, deepstack = self.build.mergers
        yield from self._merger(f"{self.path}.{merger}", self.hidden)
        for level in range(self.levels):  # these normalise after the patches are joined
            yield from self._merger(f"{self.path}.{deepstack}.{level}", self.hidden * self.merge**2)

    def _norm(self, name: str, part: Part, size: int) -> ModuleShape:
        return ModuleShape(name, part, (size,), size if self.build.norm_bias else 0, linear=False)

    def _block(self, at: str) -> Iterator[ModuleShape]:
        hidden, inner = self.hidden, self.inner
        for name in ("norm1", "norm2"):
            yield self._norm(f"{at}.{name}", "vision", hidden)
        *into, back = self.build.mlp
        mlp = {**dict.fromkeys(into, (inner, hidden)), back: (hidden, inner)}
        shapes = {"attn.qkv": (3 * hidden, hidden), "attn.proj": (hidden, hidden)}
        for name, shape in {**shapes, **{f"mlp.{name}": shape for name, shape in mlp.items()}}.items():
            yield ModuleShape(f"{at}.{name}", "vision", shape, shape[0])

    def _merger(self, at: str, width: int) -> Iterator[ModuleShape]:
        """One merger, whose norm is ``width`` wide."""
        joined, (norm, *matrices) = self.hidden * self.merge**2, self.build.merger
        yield self._norm(f"{at}.{norm}", "merger", width)
        for name, rows in zip(matrices, (joined, self.out), strict=True):
            yield ModuleShape(f"{at}.{name}", "merger", (rows, joined), rows)
