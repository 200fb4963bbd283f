"""The plan of a run: what it trains, what it takes of memory, disk and time, and what to change if it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from medtune.model.padding import STREAM_LAYERS
from medtune.planner.machines import Machine
from medtune.planner.memory import Parts, cache_bytes, training_phase, trunk_phase, whole_model
from medtune.planner.model import FLOAT, Engine, Model
from medtune.planner.weights import PARTS
from medtune.planner.workload import Load
from medtune.schemas import TrainConfig


@dataclass(frozen=True)
class Measured:
    """What a run with these settings really took, once it has reported."""

    step_seconds: float  # of one optimizer step
    peak: float  # bytes


@dataclass(frozen=True)
class Plan:
    """One run on one machine; every figure follows from the model's config.json, the settings and the load."""

    model: Model
    load: Load
    machine: Machine
    measured: Measured | None = None

    @property
    def train(self) -> TrainConfig:
        """The settings."""
        return self.model.train

    @cached_property
    def parameters(self) -> Parts:
        """Parameters of the model by part."""
        counts = dict.fromkeys(PARTS, 0)
        for module in self.model.modules:
            counts[module.part] += module.size
        return {part: count for part, count in counts.items() if count}

    @cached_property
    def trainable(self) -> dict[str, int]:
        """Trainable parameters by the part they adapt."""
        counts = dict.fromkeys(PARTS, 0)
        for module in self.model.targets:
            counts[module.part] += module.adapter(self.train.lora)
        return {part: count for part, count in counts.items() if count}

    @property
    def adapter_bytes(self) -> int:
        """Size of adapters.safetensors, without its header of some kilobytes."""
        return self.model.trainable * FLOAT

    @property
    def run_bytes(self) -> int:
        """Disk of the run folder: the best adapters, the numbered ones that are kept, and the state to go on with."""
        kept = min(self.train.keep_last, -(-self.train.iters // self.train.save_every))
        return self.adapter_bytes * (1 + kept + 3)

    @property
    def cache_bytes(self) -> int:
        """Disk of the trunk cache, 0 where it is not used."""
        return cache_bytes(self.model, self.load) if self.cached else 0

    @cached_property
    def cached(self) -> bool:
        """Whether the frozen layers run once per example: as told, or where that pays and half the free disk holds it.

        It pays where examples are seen more than once; it cannot be where the layers below are changed at each step.
        """
        if self.train.lora.restless or self.train.trunk_cache == "off":
            return False
        fits = cache_bytes(self.model, self.load) < 0.5 * self.machine.disk
        return self.train.trunk_cache == "on" or (self.epochs > 1 and fits)

    @property
    def epochs(self) -> float:
        """How often an example is seen, on average."""
        return self.train.iters * self.train.batch_size / self.load.records

    @cached_property
    def checkpoint(self) -> bool:
        """Whether layers are recomputed in the backward pass: as told, or where it does not fit otherwise."""
        if self.train.grad_checkpoint != "auto":
            return self.train.grad_checkpoint == "on"
        return sum(self._training(checkpoint=False).values()) > self.machine.usable

    @cached_property
    def group(self) -> int:
        """Decoder layers of the trunk in memory at a time: all where they fit, else a few."""
        whole = trunk_phase(self.model, self.load, group=self.model.first)
        return self.model.first if sum(whole.values()) <= self.machine.usable else STREAM_LAYERS

    @cached_property
    def phases(self) -> dict[str, Parts]:
        """Peak memory by phase and part, in bytes."""
        trunk = {"trunk": trunk_phase(self.model, self.load, group=self.group)} if self.cached else {}
        return {**trunk, "training": self._training(self.checkpoint), "answering": {"model": whole_model(self.model)}}

    def _training(self, checkpoint: bool) -> Parts:
        return training_phase(self.model, self.load, checkpoint=checkpoint, cached=self.cached)

    @property
    def peak(self) -> float:
        """Peak memory of training, bytes."""
        return max(sum(parts.values()) for name, parts in self.phases.items() if name != "answering")

    @property
    def fits(self) -> bool:
        """Whether the run fits the machine."""
        return self.peak <= self.machine.usable

    @property
    def answers(self) -> bool:
        """Whether the whole model fits the machine, a tenth above its weights kept for the conversation."""
        return 1.1 * sum(self.phases["answering"].values()) <= self.machine.usable

    def on(self, machine: Machine, engine: Engine) -> Plan:
        """The same run on another machine."""
        return replace(self, machine=machine, model=replace(self.model, engine=engine))

    def remedies(self) -> list[str] | None:
        """Settings with which it fits, those that cost least first; None where they are not enough."""
        changed, said = self, []
        for text, change in CHANGES:
            better = change(changed)
            if better.peak < changed.peak:
                changed, said = better, [*said, text.format(batch_size=self.train.batch_size)]
            if changed.fits:
                return said
        return None

    def _with(self, **settings: Any) -> Plan:
        return replace(self, model=replace(self.model, train=self.train.model_copy(update=settings)))

    def _shorter(self, tokens: int) -> Plan:
        return replace(self, load=replace(self.load, longest=min(self.load.longest, tokens)))

    def _shallower(self, layers: int) -> Plan:
        return self._with(lora=self.train.lora.model_copy(update={"num_layers": min(self.model.top, layers)}))


CHANGES: tuple[tuple[str, Callable[[Plan], Plan]], ...] = (
    ("trunk_cache=on", lambda plan: plan._with(trunk_cache="on")),
    ("grad_checkpoint=on", lambda plan: plan._with(grad_checkpoint="on")),
    ("grad_accumulation_steps={batch_size}", lambda plan: plan._with(grad_accumulation_steps=plan.train.batch_size)),
    ("max_seq_length=1024", lambda plan: plan._shorter(1024)),
    ("max_seq_length=512", lambda plan: plan._shorter(512)),
    ("lora.num_layers=8", lambda plan: plan._shallower(8)),
    ("lora.num_layers=4", lambda plan: plan._shallower(4)),
)


def plan(
    config: dict[str, Any],
    train: TrainConfig,
    load: Load,
    engine: Engine,
    machine: Machine,
    measured: Measured | None = None,
) -> Plan:
    """The plan of training ``train`` on the model of this config.json."""
    return Plan(Model(config, train, engine), load, machine, measured)
