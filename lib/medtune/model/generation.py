"""Greedy answers, many prompts at a time, each as if it were alone.

Prompts of a batch are right-padded, which causal attention makes safe, and their keys stay where they were written: a
mask hides the gap between a prompt's end and the first generated token. Positions are in the keys already (RoPE), so
nothing has to be moved, and a row that has its answer leaves the batch.

Shapes: B rows, T padded prompt tokens, V vocabulary, D hidden size, K keys so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.cache import KVCache

from medtune.model import padding
from medtune.model.architecture import Activations, Architecture
from medtune.model.renderer import Example, Renderer

Finish = Literal["stop", "length"]
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a byte-level tokenizer shows for half a character


@dataclass(frozen=True)
class Answer:
    """What a model said to prompt number ``index``: text, count of tokens without the end token, and why it ended."""

    index: int
    text: str
    tokens: int
    finish: Finish


def generate(
    model: nn.Module, renderer: Renderer, prompts: Sequence[Example], *, max_tokens: int, batch_size: int
) -> Iterator[list[Answer]]:
    """Answers to ``prompts`` (from ``Renderer.prompt``) at temperature 0, a batch at a time, longest prompts first.

    ``index`` is the prompt's place in ``prompts``. Prompts of like length share a batch, so there is little padding.
    """
    stops = set(renderer.stop_ids)
    for chosen in _together(Architecture.of(model), [len(prompt.tokens) for prompt in prompts], batch_size):
        ids: list[list[int]] = [[] for _ in chosen]
        finish: list[Finish] = ["length"] * len(chosen)
        for step in decode(model, renderer, [prompts[index] for index in chosen], max_tokens):
            for row, token in step.items():
                if token in stops:
                    finish[row] = "stop"
                else:
                    ids[row].append(token)
        yield [
            Answer(index, renderer.detokenize(ids[row]).strip(), len(ids[row]), finish[row])
            for row, index in enumerate(chosen)
        ]


def _together(architecture: Architecture, lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices of prompts to answer together: of like length; of equal length where the model counts positions."""
    for chosen in padding.by_length(lengths, batch_size):
        if architecture.takes_positions:
            yield chosen
        else:
            yield from (list(equal) for _, equal in groupby(chosen, key=lengths.__getitem__))


def stream(model: nn.Module, renderer: Renderer, prompt: Example, *, max_tokens: int) -> Iterator[str]:
    """The answer to one prompt, piece by piece as it is generated; the pieces joined are its text."""
    ids: list[int] = []
    said = ""
    stops = set(renderer.stop_ids)
    for step in decode(model, renderer, [prompt], max_tokens):
        if step[0] not in stops:
            ids.append(step[0])
        text = renderer.detokenize(ids)
        if text.endswith(UNFINISHED) and len(ids) < max_tokens and step[0] not in stops:
            continue  # the rest of the character is still to come
        yield text[len(said) :]
        said = text


def decode(
    model: nn.Module, renderer: Renderer, prompts: Sequence[Example], max_tokens: int
) -> Iterator[dict[int, int]]:
    """Yield per step the next token of each row that is not finished; a row's last token may be a stop token.

    The next step is under way on the device while the host reads the last one's tokens: one synchronisation a step.
    """
    batch = _Batch(Architecture.of(model), renderer, prompts)
    stops = set(renderer.stop_ids)
    rows = list(range(len(prompts)))
    tokens = batch.first
    mx.async_eval(tokens)
    for step in range(max_tokens):
        following = batch.step(tokens) if step + 1 < max_tokens else tokens
        mx.async_eval(following)
        found = dict(zip(rows, _integers(tokens), strict=True))
        yield found
        going = [place for place, row in enumerate(rows) if found[row] not in stops]
        if not going:
            return
        if len(going) < len(rows):
            keep = mx.array(going)
            rows = [rows[place] for place in going]
            following = following[keep]
            batch.keep(keep)
        tokens = following


class _Batch:
    """The rows being answered: their keys and values, how long each prompt is, and where each goes on."""

    def __init__(self, architecture: Architecture, renderer: Renderer, prompts: Sequence[Example]) -> None:
        self.architecture = architecture
        self.vocabulary = len(renderer.tokenizer)  # a model's table may be padded beyond it
        self.caches: list[Any] = [KVCache() for _ in architecture.layers]
        lengths = [len(prompt.tokens) for prompt in prompts]
        inputs = architecture.embed(*renderer.inputs(prompts))
        self.width = inputs.h.shape[1]
        self.lengths = mx.array(lengths)[:, None, None, None]  # (B, 1, 1, 1)
        last = mx.array([length - 1 for length in lengths])
        rows = mx.arange(len(prompts))
        self.positions = inputs.positions[:, rows, last][..., None]  # (3, B, 1), of each row's latest token
        h = architecture.run(0, len(architecture.layers), inputs, caches=self.caches)
        if (
            not architecture.takes_positions
        ):  # it counts on from the end of its cache: take the padding off, alike for all
            self.width = lengths[0]
            for cache in self.caches:
                cache.trim(inputs.h.shape[1] - self.width)
        self.first = self._choose(h[rows, last])

    def step(self, tokens: mx.array) -> mx.array:
        """The tokens (B,) that follow ``tokens`` (B,)."""
        self.positions = self.positions + 1
        keys = mx.arange(self.caches[0].offset + 1)
        mask = (keys < self.lengths) | (keys >= self.width)  # (B, 1, 1, K)
        h = self.architecture.decoder.embed_tokens(tokens[:, None])
        latest = Activations(h, self.positions, None)
        return self._choose(self.architecture.run(0, len(self.caches), latest, mask=mask, caches=self.caches)[:, 0])

    def keep(self, rows: mx.array) -> None:
        """Drop all rows but these."""
        self.lengths = self.lengths[rows]
        self.positions = self.positions[:, rows]
        for cache in self.caches:
            cache.keys, cache.values = cache.keys[rows], cache.values[rows]

    def _choose(self, h: mx.array) -> mx.array:
        """The likeliest token (B,) after hidden states h (B, D)."""
        return mx.argmax(self.architecture.logits(h)[..., : self.vocabulary], axis=-1)


def _integers(tokens: mx.array) -> list[int]:
    return [int(token) for token in np.array(tokens)]
