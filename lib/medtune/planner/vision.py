"""The vision tower of each family: its weights, and the widths its working memory depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medtune.planner.weights import Part, Weight

TOWER = "vision_tower"


@dataclass(frozen=True)
class Tower:
    """Shape of a vision tower and its mergers."""

    family: str
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
        vision = config.get("vision_config")
        if vision is None:
            return None
        family = config["model_type"]
        older = family == "qwen2_vl"  # there `hidden_size` is the language model's, `embed_dim` the tower's
        hidden = vision["embed_dim"] if older else vision["hidden_size"]
        return cls(
            family=family,
            hidden=hidden,
            inner=int(hidden * vision.get("mlp_ratio", 4)) if older else vision["intermediate_size"],
            heads=vision["num_heads"],
            depth=vision["depth"],
            out=vision["hidden_size"] if older else vision["out_hidden_size"],
            merge=vision["spatial_merge_size"],
            patch=vision.get("in_channels", 3) * vision.get("temporal_patch_size", 2) * vision["patch_size"] ** 2,
            positions=0 if family.startswith("qwen2") else vision["num_position_embeddings"],
            levels=len(vision.get("deepstack_visual_indexes", ())),
        )

    def weights(self) -> Iterator[Weight]:
        """Patch embedding, blocks, merger and deepstack mergers."""
        older = self.family.startswith("qwen2")
        yield Weight(
            f"{TOWER}.patch_embed.proj", "vision", (self.hidden, self.patch), 0 if older else self.hidden, False
        )
        if self.positions:
            yield Weight(f"{TOWER}.pos_embed", "vision", (self.positions, self.hidden), linear=False)
        for block in range(self.depth):
            yield from self._block(f"{TOWER}.blocks.{block}")
        joined = self.hidden * self.merge**2
        if older:
            yield from self._merger(f"{TOWER}.merger", self.hidden, "ln_q", ("mlp.0", "mlp.2"))
            return
        names = ("linear_fc1", "linear_fc2")
        yield from self._merger(f"{TOWER}.merger", self.hidden, "norm", names)
        for level in range(self.levels):  # these normalise after the patches are joined
            yield from self._merger(f"{TOWER}.deepstack_merger_list.{level}", joined, "norm", names)

    def _norm(self, name: str, part: Part, size: int) -> Weight:
        return Weight(name, part, (size,), 0 if self.family == "qwen2_5_vl" else size, linear=False)

    def _block(self, at: str) -> Iterator[Weight]:
        hidden, inner = self.hidden, self.inner
        for name in ("norm1", "norm2"):
            yield self._norm(f"{at}.{name}", "vision", hidden)
        if self.family == "qwen2_5_vl":
            mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
        else:
            names = ("fc1", "fc2") if self.family == "qwen2_vl" else ("linear_fc1", "linear_fc2")
            mlp = dict(zip(names, ((inner, hidden), (hidden, inner)), strict=True))
        shapes = {"attn.qkv": (3 * hidden, hidden), "attn.proj": (hidden, hidden)}
        for name, shape in {**shapes, **{f"mlp.{name}": shape for name, shape in mlp.items()}}.items():
            yield Weight(f"{at}.{name}", "vision", shape, shape[0])

    def _merger(self, at: str, norm: int, norm_name: str, names: tuple[str, str]) -> Iterator[Weight]:
        joined = self.hidden * self.merge**2
        yield self._norm(f"{at}.{norm_name}", "merger", norm)
        for name, rows in zip(names, (joined, self.out), strict=True):
            yield Weight(f"{at}.{name}", "merger", (rows, joined), rows)
