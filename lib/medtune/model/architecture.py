"""The parts of a loaded model, whichever library made it: the one place that runs its layers.

Shapes: B sequences, T tokens, D hidden size, K deepstack levels, N images, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.nn.utils import checkpoint as checkpointed

from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import families
from medtune.model.families import Family


class Activations(NamedTuple):
    """What enters a decoder layer: h (B, T, D), positions (3, B, T) int32, deepstack (K, B, T, D) or None."""

    h: mx.array
    positions: mx.array
    deepstack: mx.array | None

    def frozen(self) -> Activations:
        """The same, without a way for gradients to what made them."""
        deepstack = None if self.deepstack is None else mx.stop_gradient(self.deepstack)
        return Activations(mx.stop_gradient(self.h), self.positions, deepstack)


class Architecture:
    """The parts of one loaded vision-language model."""

    takes_positions = True  # else a layer counts from where its cache ends, alike for all rows

    def __init__(self, model: Any, family: Family) -> None:
        self.model, self.family = model, family

    @staticmethod
    def of(model: nn.Module) -> Architecture:
        """The architecture of a loaded model; a UserError names the supported types where it is another one."""
        config: Any = getattr(model, "config", None)
        kind = config.model_type if config is not None else getattr(model, "model_type", "")
        family = families.of({"model_type": kind})
        return (Architecture if family.vision else TextArchitecture)(model, family)

    @property
    def language(self) -> Any:
        """The module that owns decoder and head."""
        return _at(self.model, self.family.library.language)

    @property
    def decoder(self) -> Any:
        """The module that owns ``embed_tokens``, ``layers`` and ``norm``."""
        return _at(self.model, self.family.decoder)

    @property
    def head(self) -> Any:
        """What makes logits of normed rows, where it is not tied."""
        return _at(self.model, self.family.head)

    @property
    def tower(self) -> Any:
        """The vision tower."""
        return _at(self.model, self.family.library.tower)

    @property
    def layers(self) -> list[Any]:
        """The decoder layers, lowest first."""
        return self.decoder.layers

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.decoder.args.hidden_size)

    @property
    def deepstack_levels(self) -> int:
        """How many of the first decoder layers get visual features added after them."""
        vision = self.family.vision
        return len(getattr(self.model.config.vision_config, vision.levels, ())) if vision else 0

    def embed(self, tokens: np.ndarray, pixels: np.ndarray | None, grids: np.ndarray | None) -> Activations:
        """Embeddings of tokens (B, T) with the images in their places; patches of all images and grids (N, 3)."""
        features = self.model.get_input_embeddings(
            mx.array(tokens),
            None if pixels is None else mx.array(pixels),
            image_grid_thw=None if grids is None else mx.array(grids),
        )
        positions = features.position_ids
        if positions.ndim == 2:  # text only: the three rotary axes agree
            positions = mx.broadcast_to(positions[None], (3, *positions.shape))
        levels = getattr(features, "deepstack_visual_embeds", None)
        deepstack = None if levels is None else _dense(levels, features.visual_pos_masks, features.inputs_embeds)
        return Activations(features.inputs_embeds, positions.astype(mx.int32), deepstack)

    def run(
        self,
        first: int,
        last: int,
        inputs: Activations,
        checkpoint: bool = False,
        mask: mx.array | str = "causal",
        caches: Sequence[Any] = (),
    ) -> mx.array:
        """Decoder layers first..last-1 -> h (B, T, D).

        Level k of deepstack is added after layer k. Right padding is safe: attention is causal. With ``checkpoint``
        a layer's inner activations are computed again in the backward pass instead of being kept. ``caches`` holds the
        earlier keys and values of each layer of the model, to which these are added.
        """
        h = inputs.h
        if first == last:
            return h
        arguments = self._arguments(self.layers[first], inputs)
        for index in range(first, last):
            layer = checkpointed(self.layers[index]) if checkpoint else self.layers[index]
            h = layer(h, mask, caches[index] if caches else None, *arguments)
            if inputs.deepstack is not None and index < inputs.deepstack.shape[0]:
                h = h + inputs.deepstack[index]
        return h

    def _arguments(self, layer: Any, inputs: Activations) -> tuple[Any, ...]:
        """What a decoder layer takes after h, mask and cache: positions, and their embedding computed once."""
        rotary = layer.self_attn.rotary_emb
        return inputs.positions, None if rotary.fused_apply else rotary(inputs.h, inputs.positions)

    def logits(self, h: mx.array) -> mx.array:
        """Final norm and head on rows h (..., D) -> (..., V)."""
        h = self.decoder.norm(h)
        return self.decoder.embed_tokens.as_linear(h) if self.tied else self.head(h)

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return bool(self.language.args.tie_word_embeddings)

    def drop(self, first: int, last: int) -> None:
        """Free the decoder layers first..last-1; the model cannot run them any more."""
        for index in range(first, last):
            self.layers[index] = nn.Module()
        mx.clear_cache()

    def keep_from(self, first: int) -> None:
        """Free everything that decoder layers ``first`` and above, norm and head do not need."""
        self.drop(0, first)
        if self.family.vision:
            setattr(self.model, self.family.library.tower, nn.Module())
        if not self.tied:
            self.decoder.embed_tokens = nn.Module()
        mx.clear_cache()


class TextArchitecture(Architecture):
    """The parts of a text-only model of mlx-lm."""

    takes_positions = False

    def embed(self, tokens: np.ndarray, pixels: np.ndarray | None, grids: np.ndarray | None) -> Activations:
        """Embeddings of tokens (B, T); an image is a UserError."""
        if pixels is not None:
            raise UserError(tr("{kind}: a text-only model cannot learn from images", kind=self.family.model_type))
        positions = mx.broadcast_to(mx.arange(tokens.shape[1], dtype=mx.int32), (3, *tokens.shape))
        return Activations(self.decoder.embed_tokens(mx.array(tokens)), positions, None)

    def _arguments(self, layer: Any, inputs: Activations) -> tuple[Any, ...]:
        if getattr(layer, "use_sliding", False):
            raise UserError(tr("{kind}: sliding-window attention is not supported", kind=self.family.model_type))
        return ()


def _at(model: Any, path: str) -> Any:
    """The module at a path of attributes; "" is the model itself."""
    return attrgetter(path)(model) if path else model


def _dense(levels: Any, mask: mx.array, like: mx.array) -> mx.array:
    """Deepstack levels, each (visual tokens, D), spread over the sequence: (K, B, T, D), zero without an image."""
    rows = mx.array(np.flatnonzero(np.array(mask)), mx.uint32)
    dense = []
    for level in levels:
        flat = mx.zeros((like.shape[0] * like.shape[1], like.shape[2]), like.dtype)
        flat[rows] = level.astype(like.dtype)
        dense.append(flat.reshape(like.shape))
    return mx.stack(dense)
