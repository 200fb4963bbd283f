"""One optimizer step: loss and gradients of the adapted top of the model, clipped, applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map, tree_map_with_path

from medtune.model.architecture import Activations, Architecture
from medtune.model.arrays import flat, scalar
from medtune.records import DIMENSIONS
from medtune.schemas import Constant, Cosine, Optimizer, TrainConfig
from medtune.training.cluster import ALONE, Cluster
from medtune.training.dataloader import Inputs, MicroBatch, Size
from medtune.training.loss import Rows, Terms, objective, row_log_probs, sequence_sums


@dataclass(frozen=True)
class Outcome:
    """One step's results, still on the device: loss and grad_norm scalars, the terms summed over micro-batches."""

    loss: mx.array
    grad_norm: mx.array
    terms: Terms


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of optimizer step 1..iters: linear warm-up, then constant or half a cosine to final * peak."""
    peak, schedule = config.optimizer.learning_rate, config.lr_schedule
    if step <= schedule.warmup:
        return peak * step / (schedule.warmup + 1)
    if isinstance(schedule, Constant):
        return peak
    assert isinstance(schedule, Cosine)
    done = (step - schedule.warmup - 1) / max(config.iters - schedule.warmup, 1)  # < 1: the last step still learns
    return peak * (schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * done)))


def make_optimizer(config: Optimizer) -> optim.Optimizer:
    """The configured optimizer; its learning rate is set before every step."""
    if config.name == "adamw":
        return optim.AdamW(config.learning_rate, weight_decay=config.weight_decay, bias_correction=True)
    if config.name == "adam":
        return optim.Adam(config.learning_rate, bias_correction=True)
    return optim.SGD(config.learning_rate, weight_decay=config.weight_decay)


class Step:
    """The top of a model from decoder layer ``first``, its optimizer, and the compiled step over both."""

    def __init__(
        self,
        architecture: Architecture,
        first: int,
        config: TrainConfig,
        *,
        compiled: bool,
        checkpoint: bool,
        cluster: Cluster = ALONE,
    ) -> None:
        self.architecture, self.first, self.config = architecture, first, config
        self.checkpoint, self.cluster = checkpoint, cluster
        self.model = architecture.model
        self.optimizer = make_optimizer(config.optimizer)
        self.optimizer.init(self.model.trainable_parameters())
        self.forward: Callable[..., tuple[mx.array, Terms]] = self._loss
        self._gradients = nn.value_and_grad(self.model, self._loss)
        if compiled:
            state = [self.model.state, mx.random.state]
            self._gradients = partial(mx.compile, inputs=state, outputs=state)(self._gradients)
            self.forward = partial(mx.compile, inputs=state, outputs=state)(self._loss)

    def __call__(self, micro: Sequence[MicroBatch], step: int, whole: Size) -> Outcome:
        """Take optimizer step ``step`` (1-based) over this machine's micro-batches of a step of size ``whole``."""
        loss, terms, gradients = self.cluster.sum(self.gradients(micro, whole))
        terms = Terms(*terms)
        clip = self.config.optimizer.grad_clip
        gradients, norm = optim.clip_grad_norm(gradients, clip if clip is not None else math.inf)
        self.optimizer.learning_rate = mx.array(learning_rate(self.config, step))
        self.apply(gradients)
        return Outcome(loss, norm, terms)

    def apply(self, gradients: Any) -> None:
        """Apply the optimizer; with LoRA+ (Hayou et al. 2024) lora_b moves ``plus_ratio`` times as far.

        Every optimizer here moves a parameter in proportion to the learning rate, so that scaling the move is a
        learning rate of its own.
        """
        before = self.model.trainable_parameters()
        after = self.optimizer.apply_gradients(gradients, before)
        ratio = self.config.lora.plus_ratio
        if ratio != 1.0:
            after = tree_map_with_path(
                lambda path, new, old: old + ratio * (new - old) if path.endswith("lora_b") else new, after, before
            )
        self.model.update(after)

    def gradients(self, micro: Sequence[MicroBatch], whole: Size | None = None) -> tuple[mx.array, Terms, Any]:
        """Loss, terms and gradients of the adapters over micro-batches, as parts of a step of size ``whole``."""
        whole = whole or Size.sum(batch.size for batch in micro)
        tokens, drawn = mx.array(float(whole.supervised)), mx.array(float(whole.drawn))
        self.model.train()
        total: tuple[mx.array, Terms, Any] | None = None
        for batch in micro:
            (loss, terms), gradients = self._gradients(batch.inputs, tuple(batch.rows), tokens, drawn)
            part = (loss, Terms(*terms), gradients)
            total = part if total is None else _added(total, part)
            if len(micro) > 1:
                mx.eval(total)  # frees this micro-batch's activations
        assert total is not None
        if self.checkpoint:
            self._evaluate_downwards(total[2])
        return total

    def _evaluate_downwards(self, gradients: Any) -> None:
        """Evaluate the last layer's gradients first, so that each layer's recomputed activations are freed in turn.

        In the order of the tree, MLX would go down to the lowest layer at once and keep them all.
        """
        depth = len(self.architecture.layers)
        named = flat(gradients).items()
        for index in reversed(range(self.first, depth)):
            mx.eval([value for name, value in named if f".layers.{index}." in name])

    def gradient_norms(self, micro: Sequence[MicroBatch], whole: Size) -> list[float]:
        """Norm of the gradient that each dimension alone would give on a step."""
        norms = []
        for dim in range(len(DIMENSIONS)):
            parts = [replace(batch, rows=batch.rows.only(dim)) for batch in micro]
            _, _, gradients = self.cluster.sum(self.gradients(parts, whole))
            norms.append(scalar(optim.clip_grad_norm(gradients, math.inf)[1]))
        return norms

    def evaluate(self, batch: MicroBatch) -> Terms:
        """Terms of a batch without dropout and without a gradient."""
        self.model.eval()
        one = mx.array(1.0)
        return Terms(*self.forward(batch.inputs, tuple(batch.rows), one, one)[1])

    def row_log_probs(self, batch: MicroBatch) -> mx.array:
        """log p of each row's target (S,), without dropout."""
        self.model.eval()
        return self._row_log_probs(batch.inputs, batch.rows)

    def sequence_log_probs(self, batch: MicroBatch) -> mx.array:
        """log p of each sequence's answer (B,), where it is compared, without dropout."""
        return sequence_sums(self.row_log_probs(batch) * batch.rows.compared, batch.rows.sequence, len(batch.ids))

    def _loss(
        self, inputs: Inputs, rows: tuple[mx.array, ...], tokens: mx.array, drawn: mx.array
    ) -> tuple[mx.array, Terms]:
        chosen = Rows(*rows)
        logp = self._row_log_probs(inputs, chosen)
        return objective(logp, chosen, tokens, drawn, self.config.objective)

    def _row_log_probs(self, inputs: Inputs, rows: Rows) -> mx.array:
        """log p of each row's target (S,)."""
        below = inputs() if callable(inputs) else Activations(*inputs)
        h = self.architecture.run(self.first, len(self.architecture.layers), below, self.checkpoint)
        return row_log_probs(h.reshape(-1, h.shape[-1])[rows.at], rows.targets, self.architecture.logits)


def _added(a: tuple[mx.array, Terms, Any], b: tuple[mx.array, Terms, Any]) -> tuple[mx.array, Terms, Any]:
    """Sum of two micro-batches' results."""
    return a[0] + b[0], Terms(*(x + y for x, y in zip(a[1], b[1], strict=True))), tree_map(mx.add, a[2], b[2])
