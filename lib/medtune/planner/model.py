"""The model, the settings and the engine a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from medtune.model.padding import ATTENTION_BLOCK
from medtune.planner.vision import Tower
from medtune.planner.weights import LanguageModel, ModuleShape, Part
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
    def language(self) -> LanguageModel:
        """Shape of the language model."""
        return LanguageModel.of(self.config)

    @cached_property
    def tower(self) -> Tower | None:
        """Shape of the vision tower; None for a text-only model."""
        return Tower.of(self.config)

    @property
    def levels(self) -> int:
        """Deepstack levels."""
        return self.tower.levels if self.tower else 0

    @cached_property
    def modules(self) -> list[ModuleShape]:
        """All modules."""
        return [*(self.tower.modules() if self.tower else ()), *self.language.modules()]

    @property
    def first(self) -> int:
        """Index of the lowest decoder layer that gradients reach."""
        return self.train.lora.frozen(self.language.layers)

    @property
    def top(self) -> int:
        """Decoder layers that are trained through."""
        return self.language.layers - self.first

    @cached_property
    def targets(self) -> list[ModuleShape]:
        """The modules that get an adapter."""
        lora, first = self.train.lora, self.train.lora.lowest(self.language.layers)
        linear = [module for module in self.modules if module.linear]
        inside = [module.name for module in linear if module.layer is not None and module.layer >= first]
        chosen = set(lora.chosen(inside, self.language.layers))
        below = {part for part, asked in (("vision", lora.vision), ("merger", lora.merger)) if asked}
        return [module for module in linear if module.name in chosen or module.part in below]

    @property
    def layer_targets(self) -> list[ModuleShape]:
        """Those of one decoder layer, the last."""
        return [module for module in self.targets if module.layer == self.language.layers - 1]

    @property
    def trainable(self) -> int:
        """Trainable parameters."""
        return sum(module.adapter(self.train.lora) for module in self.targets)

    def nbytes(self, *parts: Part, first: int = 0) -> float:
        """Bytes of the weights of these parts; of those in decoder layers only layers ``first`` and above."""
        quantization = self.config.get("quantization") or {}
        chosen = (m for m in self.modules if m.part in parts and (m.layer is None or m.layer >= first))
        return sum(module.nbytes(quantization, self.engine.item) for module in chosen)
