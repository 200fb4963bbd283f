"""What base + adapter, and the base alone, answer to the canaries: the measure of every later level.

Computed on the training's own path (its template code, its adapter loading, its way through the layers), so that a
fault in the deployed folder cannot be in the reference too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from medtune.deployment.proof.canaries import Canary
from medtune.model import adapters
from medtune.model.architecture import Architecture
from medtune.model.base import Base
from medtune.model.generation import decode
from medtune.model.renderer import Example, Renderer
from medtune.records import IMAGE_MARKER, Message

ANSWER = 16  # tokens of the tuned answer that are compared


@dataclass(frozen=True)
class Reference:
    """One canary's prompt and answers; log-probabilities are (A, V) float32, along the tuned answer."""

    canary: Canary
    tokens: np.ndarray  # (T,) the prompt as the training tokenises it
    answer: list[int]  # greedy, base + adapter
    tuned: np.ndarray
    base: np.ndarray
    tuned_other: np.ndarray | None  # with the other images
    tuned_text: str
    base_text: str


@dataclass(frozen=True)
class References:
    """All references, and whether the folder's template is to add the system prompt itself."""

    items: list[Reference]
    template_adds: str  # the system prompt built into the template; "" none

    def messages(self, canary: Canary) -> list[dict[str, Any]]:
        """The canary as a chat template takes it, without the system prompt that the template adds itself."""
        built_in = Message(role="system", content=self.template_adds)
        return [spelled(message) for message in canary.messages if message != built_in]


def spelled(message: Message) -> dict[str, Any]:
    """A message with its image markers as the parts a chat template knows."""
    if IMAGE_MARKER not in message.content:
        return {"role": message.role, "content": message.content}
    parts: list[dict[str, str]] = []
    for position, text in enumerate(message.content.split(IMAGE_MARKER)):
        parts += [{"type": "image"}] if position else []
        parts += [{"type": "text", "text": text}] if text else []
    return {"role": message.role, "content": parts}


def record(base: Base, run: Path, canaries: list[Canary], template_adds: str) -> References:
    """Ask base + adapter, then the same model without its adapters, then free it."""
    renderer, model = Renderer(base), base.load()
    config = adapters.load(model, run)
    model.eval()
    tuned = [_ask_tuned(model, renderer, canary) for canary in canaries]
    modules = dict(model.named_modules())
    model.update_modules(tree_unflatten([(key, modules[key].linear) for key in config.keys]))
    items = [
        Reference(
            canary=canary,
            tokens=example.tokens,
            answer=answer,
            tuned=logprobs,
            base=_logprobs(model, renderer, example, answer),
            tuned_other=other,
            tuned_text=renderer.detokenize(answer),
            base_text=renderer.detokenize(_greedy(model, renderer, example)),
        )
        for canary, (example, answer, logprobs, other) in zip(canaries, tuned, strict=True)
    ]
    del model, modules
    mx.clear_cache()
    return References(items, template_adds)


def _ask_tuned(
    model: Any, renderer: Renderer, canary: Canary
) -> tuple[Example, list[int], np.ndarray, np.ndarray | None]:
    example = renderer.prompt(canary.messages, canary.images)
    answer = _greedy(model, renderer, example)
    other = None
    if canary.other:
        other = _logprobs(model, renderer, renderer.prompt(canary.messages, canary.other), answer)
    return example, answer, _logprobs(model, renderer, example, answer), other


def _greedy(model: Any, renderer: Renderer, example: Example) -> list[int]:
    """The most likely continuation, up to ANSWER tokens, its end token included."""
    return [step[0] for step in decode(model, renderer, [example], ANSWER)]


def _logprobs(model: Any, renderer: Renderer, example: Example, answer: list[int]) -> np.ndarray:
    """(A, V) float32: log-probabilities of each position of ``answer``, given the prompt and the answer before."""
    architecture = Architecture.of(model)
    ids = np.concatenate([example.tokens, np.array(answer, np.int32)])[None]
    inputs = architecture.embed(ids, *renderer.pixels(example))
    h = architecture.run(0, len(architecture.layers), inputs)
    logits = architecture.logits(h[0, len(example.tokens) - 1 : -1]).astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
