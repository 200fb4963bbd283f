"""The frozen trunk: everything below the adapted layers, alike for an example in every epoch, run and sweep.

LoRA on the last N decoder layers leaves vision tower, embeddings and lower layers as they are.

Shapes: B examples, T tokens, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from medtune.model.architecture import Activations, Architecture
from medtune.model.renderer import Example, Renderer


class Trunk:
    """Runs the lower part of a model: images and tokens -> activations at decoder layer ``first``."""

    def __init__(self, architecture: Architecture, renderer: Renderer, first: int, neftune: float = 0.0) -> None:
        self.architecture, self.renderer, self.first, self.neftune = architecture, renderer, first, neftune

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
        return self.architecture.embed(*self.renderer.inputs(examples))


def neftune_noise(shape: Sequence[int], alpha: float) -> mx.array:
    """Uniform noise in +-alpha / sqrt(T * D) for embeddings (B, T, D) (Jain et al. 2023)."""
    bound = alpha / math.sqrt(shape[1] * shape[2])
    return mx.random.uniform(-bound, bound, shape)


def _above(deepstack: mx.array | None, first: int) -> mx.array | None:
    """The levels if any is still to be added at layer ``first`` or above, else None."""
    return None if deepstack is None or deepstack.shape[0] <= first else deepstack
