"""The model, the settings and the engine a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from medtune.model.padding import ATTENTION_BLOCK
from medtune.planner.vision import Tower
from medtune.planner.weights import Part, Text, Weight
from medtune.schemas import TrainConfig

FLOAT = 4  # bytes of a number in adapters, their gradients and the optimizer's moments


@dataclass(frozen=True)
class Engine:
    """How numbers are kept. The last two were fitted to measured peaks, see `memory`."""

    item: int  # bytes of an activation
    logit_copies: float  # float32 copies of the logits in the backward pass of the loss
    overlap: bool  # whether they are still there while the first layer's backward pass works
    block: int = 0  # queries of attention that are computed at a time; 0: all

    @property
    def mixed(self) -> bool:
        """Whether float32 adapters work beside narrower activations."""
        return self.item < FLOAT

    def seen(self, length: int) -> float:
        """Keys a query is compared with, on average: in blocks, none behind its own."""
        return (length + self.block) / 2 if 0 < self.block < length else length

    def at_once(self, length: int) -> float:
        """Keys times queries whose scores are worked with at a time, per token."""
        return min(self.block, length) if self.block else length


GPU = Engine(item=2, logit_copies=3.8, overlap=True)  # bfloat16, compiled step: Metal and CUDA
CPU = Engine(item=4, logit_copies=2.2, overlap=False, block=ATTENTION_BLOCK)  # float32, step not compiled


@dataclass(frozen=True)
class Model:
    """What a plan needs to know of a model and a run's settings."""

    config: dict[str, Any]  # config.json
    train: TrainConfig
    engine: Engine

    @cached_property
    def text(self) -> Text:
        """Shape of the language model."""
        return Text.of(self.config)

    @cached_property
    def tower(self) -> Tower | None:
        """Shape of the vision tower; None for a text-only model."""
        return Tower.of(self.config)

    @property
    def levels(self) -> int:
        """Deepstack levels."""
        return self.tower.levels if self.tower else 0

    @cached_property
    def weights(self) -> list[Weight]:
        """All weights."""
        return [*(self.tower.weights() if self.tower else ()), *self.text.weights()]

    @property
    def first(self) -> int:
        """Index of the lowest decoder layer that gradients reach."""
        return self.train.lora.frozen(self.text.layers)

    @property
    def top(self) -> int:
        """Decoder layers that are trained through."""
        return self.text.layers - self.first

    @cached_property
    def targets(self) -> list[Weight]:
        """The weights that get an adapter."""
        lora, first = self.train.lora, self.train.lora.lowest(self.text.layers)
        linear = [weight for weight in self.weights if weight.linear]
        inside = [weight.name for weight in linear if weight.layer is not None and weight.layer >= first]
        chosen = set(lora.chosen(inside, self.text.layers))
        below = {part for part, asked in (("vision", lora.vision), ("merger", lora.merger)) if asked}
        return [weight for weight in linear if weight.name in chosen or weight.part in below]

    @property
    def layer_targets(self) -> list[Weight]:
        """Those of one decoder layer, the last."""
        return [weight for weight in self.targets if weight.layer == self.text.layers - 1]

    @property
    def trainable(self) -> int:
        """Trainable parameters."""
        return sum(weight.adapter(self.train.lora) for weight in self.targets)

    def nbytes(self, *parts: Part, first: int = 0) -> float:
        """Bytes of the weights of these parts; of those in decoder layers only layers ``first`` and above."""
        quantization = self.config.get("quantization") or {}
        chosen = (w for w in self.weights if w.part in parts and (w.layer is None or w.layer >= first))
        return sum(weight.nbytes(quantization, self.engine.item) for weight in chosen)
