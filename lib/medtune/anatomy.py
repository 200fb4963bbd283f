"""Where a supported model keeps its parts: one place that knows the attribute names of the model classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from medtune.errors import UserError

SUPPORTED = ("qwen3_vl", "qwen3_vl_moe")


@dataclass(frozen=True)
class Anatomy:
    """The parts of one loaded model."""

    model: Any

    @classmethod
    def of(cls, model: nn.Module) -> Anatomy:
        """Anatomy of an mlx-vlm model; a UserError names the supported types where it is another one."""
        kind = model.config.model_type
        if kind not in SUPPORTED:
            raise UserError(f"model type {kind}: not supported; choose one of {', '.join(SUPPORTED)}")
        return cls(model)

    @property
    def decoder(self) -> Any:
        """The module that owns ``embed_tokens``, ``layers`` and ``norm``."""
        return self.model.language_model.model

    @property
    def layers(self) -> list[Any]:
        """The decoder layers, lowest first."""
        return self.decoder.layers

    @property
    def layers_path(self) -> str:
        """Full name of the list of decoder layers."""
        return "language_model.model.layers"

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.text_config.hidden_size)

    @property
    def deepstack_levels(self) -> int:
        """How many of the first decoder layers get visual features added after them."""
        return len(getattr(self.model.config.vision_config, "deepstack_visual_indexes", ()))

    def drop(self, first: int, last: int) -> None:
        """Free the decoder layers first..last-1; the model cannot run them any more."""
        for index in range(first, last):
            self.layers[index] = None
        mx.clear_cache()

    def run(
        self,
        first: int,
        last: int,
        h: mx.array,
        positions: mx.array,
        deepstack: mx.array | None,
        checkpoint: bool = False,
    ) -> mx.array:
        """Decoder layers first..last-1 on h (B, T, D).

        positions (3, B, T) int32; deepstack (K, B, T, D) or None: what is added after layer k < K, zero where there
        is no image. Right padding is safe: attention is causal. With ``checkpoint`` a layer's inner activations are
        computed again in the backward pass instead of being kept.
        """
        if first == last:
            return h
        rotary = self.layers[first].self_attn.rotary_emb
        embeddings = None if rotary.fused_apply else rotary(h, positions)
        for index in range(first, last):
            layer = nn.utils.checkpoint(self.layers[index]) if checkpoint else self.layers[index]
            h = layer(h, "causal", None, positions, embeddings)
            if deepstack is not None and index < deepstack.shape[0]:
                h = h + deepstack[index]
        return h

    def logits(self, h: mx.array) -> mx.array:
        """Final norm and head on rows h (..., D) -> (..., V)."""
        h = self.decoder.norm(h)
        language = self.model.language_model
        if language.args.tie_word_embeddings:
            return self.decoder.embed_tokens.as_linear(h)
        return language.lm_head(h)
