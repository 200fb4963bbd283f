"""The training loop: steps, reports, validation, checkpoints, and the reasons to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_map

from medtune import files
from medtune.errors import UserError, is_out_of_memory
from medtune.i18n import tr
from medtune.model import adapters
from medtune.model.arrays import scalar
from medtune.run import RESUME, WEIGHTS
from medtune.schemas import TrainConfig
from medtune.training import checkpoints, interrupt, validation
from medtune.training.cluster import STOP
from medtune.training.dataloader import DataLoader, MicroBatch, Size
from medtune.training.interrupt import Interrupt
from medtune.training.runlog import RunLog
from medtune.training.sampler import Order
from medtune.training.state import RunState
from medtune.training.step import Outcome, Step

CACHE_BYTES = 2**29  # bound of MLX's buffer cache: shapes vary, and unbounded it grows through a run


class OutOfMemory(Exception):
    """A step did not fit; nothing of it was kept."""


class Trainer:
    """One run in one folder, from its last checkpoint to its last step."""

    def __init__(
        self,
        step: Step,
        adapter: adapters.AdapterConfig,
        config: TrainConfig,
        folder: Path,
        loaders: tuple[DataLoader, DataLoader],
        order: Order,
        fingerprint: str,
    ) -> None:
        self.step, self.adapter, self.config, self.folder, self.order = step, adapter, config, folder, order
        self.cluster = step.cluster
        self.train_loader, self.valid_loader = loaders
        self.resume_path = folder / RESUME
        restored = checkpoints.load(self.resume_path, step.model, step.optimizer, fingerprint, step.cluster)
        self.state = restored or RunState(fingerprint)
        self.stopped = "finished"

    def run(self) -> RunState:
        """Train to the end, or until patience runs out; Ctrl-C saves first and then stops the program."""
        mx.set_cache_limit(CACHE_BYTES)
        state = self.state
        # One of several may wait for a dead one inside MLX, where no handler is ever reached: SIGTERM must end it.
        deferred = interrupt.deferred(self.folder / STOP if self.cluster.size > 1 else None)
        with RunLog(self.folder, self.config, state) as log, deferred as asked:
            log.begin()
            if not state.step:
                self._validate(log, 1)
            state.micro = state.micro or self.config.grad_accumulation_steps
            if self._impatient:  # killed after its last checkpoint, before its receipt
                self.stopped = "early_stop"
            while state.step < self.config.iters and self.stopped == "finished":
                try:
                    self._steps(log, asked)
                except OutOfMemory:
                    self._halve(log)
            if self.config.select.by == "last":
                self._save_adapters(WEIGHTS)
            log.end(self.stopped)
        return state

    def _steps(self, log: RunLog, asked: Interrupt) -> None:
        """All steps that are left, each in as many micro-batches as memory allows at its beginning."""
        stream = self._stream()
        clock = time.perf_counter()
        for number in range(self.state.step + 1, self.config.iters + 1):
            batches = [next(stream) for _ in range(self.state.micro)]
            whole = self._size(number)
            outcome = self._step(batches, number, whole)
            self._check_finite(outcome, number)
            self.state.took(number, outcome, whole, time.perf_counter() - clock)
            log.advance(scalar(outcome.loss))
            self._milestones(log, batches, whole)
            if self._out_of_patience(log):
                return
            if self.cluster.any(asked.requested):
                self._save_state()
                log.saved()
                raise KeyboardInterrupt
            clock = time.perf_counter()

    def _stream(self) -> Iterator[MicroBatch]:
        """This machine's micro-batches of the steps that are left."""
        micro, left = self.state.micro, self.order[self.state.step : self.config.iters]
        shares = (self.cluster.share(chosen) for chosen in left)
        return self.train_loader.stream(share[i::micro] for share in shares for i in range(micro))

    def _size(self, number: int) -> Size:
        """What step ``number`` holds over all machines and micro-batches."""
        chosen, ranks, micro = self.order[number - 1], self.cluster.size, self.state.micro
        return Size.sum(self.train_loader.size(chosen[r::ranks][i::micro]) for r in range(ranks) for i in range(micro))

    def _step(self, batches: Sequence[MicroBatch], number: int, whole: Size) -> Outcome:
        """One step, evaluated; where memory is short, everything is as before it and OutOfMemory is raised."""
        step = self.step
        parameters, optimizer = step.model.trainable_parameters(), tree_map(lambda x: x, step.optimizer.state)
        try:
            outcome = step(batches, number, whole)
            mx.eval(outcome, step.model.trainable_parameters(), step.optimizer.state)
        except RuntimeError as error:
            if self.cluster.size > 1 or not is_out_of_memory(error):
                raise
            step.model.update(parameters)
            step.optimizer.state = optimizer
            raise OutOfMemory from error
        return outcome

    def _check_finite(self, outcome: Outcome, number: int) -> None:
        """A loss that is no number any more ends the run before it can be saved."""
        if math.isfinite(scalar(outcome.loss)) and math.isfinite(scalar(outcome.grad_norm)):
            return
        ids = ", ".join(self.train_loader.lessons[index].example.id for index in self.order[number - 1])
        raise UserError(
            tr(
                "step {step}: the loss or gradient is not finite on examples {ids}; the last checkpoint is kept; look "
                "at these records or lower optimizer.learning_rate",
                step=number,
                ids=ids,
            )
        )

    def _milestones(self, log: RunLog, batches: Sequence[MicroBatch], whole: Size) -> None:
        """What is due at this step: report, validation, checkpoint."""
        config, number = self.config, self.state.step
        last = number == config.iters
        if number % config.steps_per_report == 0 or last:
            log.report(self.state.report())
        if number % config.steps_per_eval == 0 or last:
            self._validate(log, number, self.step.gradient_norms(batches, whole))
        if number % config.save_every == 0 or last:
            self._checkpoint(log)

    def _validate(self, log: RunLog, number: int, gradient_norms: Sequence[float] = ()) -> None:
        """Loss over the whole validation set; the adapters are kept when they are the best so far."""
        started = time.perf_counter()
        losses, margin = validation.validate(self.step, self.valid_loader, self.config)
        if not math.isfinite(losses.loss) or not math.isfinite(margin or 0.0):
            raise UserError(
                tr(
                    "step {step}: the validation loss is not finite; the last checkpoint is kept; lower "
                    "optimizer.learning_rate, or, at the first step, download the base model again",
                    step=number,
                )
            )
        better = self.state.validated(losses, margin, gradient_norms)
        log.validated(number, losses, margin, time.perf_counter() - started)
        if better and self.config.select.by == "val_loss":
            self._save_adapters(WEIGHTS)
            self.state.kept = files.sha256(self.folder / WEIGHTS)

    def _checkpoint(self, log: RunLog) -> None:
        state = self.state
        name = f"{state.step:07d}_{WEIGHTS}"
        size = self._save_adapters(name)
        row = {"step": state.step, "file": name, "bytes": size, "sha256": files.sha256(self.folder / name)}
        state.saved.append({**row, "val_loss": state.last["val_loss"]})
        checkpoints.prune(self.folder, state, self.config.keep_last)
        self._save_state()
        log.checkpoint(name)

    def _out_of_patience(self, log: RunLog) -> bool:
        state = self.state
        if not self._impatient:
            return False
        log.impatient(state.waited)
        if state.unreported:
            log.report(state.report())
        self._checkpoint(log)
        self.stopped = "early_stop"
        return True

    @property
    def _impatient(self) -> bool:
        patience, state = self.config.select.patience, self.state
        return patience is not None and state.waited >= patience and state.step < self.config.iters

    def _halve(self, log: RunLog) -> None:
        """Cut each step into twice as many micro-batches: less memory, the same result."""
        mx.clear_cache()
        state, size = self.state, self.config.batch_size
        if state.micro >= size:
            raise UserError(
                tr(
                    "out of memory with one example at a time at step {step}; set grad_checkpoint: on, lower "
                    "data.yaml's max_seq_length or close other programs; `make plan` says what fits",
                    step=state.step + 1,
                )
            )
        state.micro = next(n for n in range(state.micro * 2, size + 1) if size % n == 0 or n == size)
        self._save_state()
        log.halved()

    def _save_state(self) -> None:
        checkpoints.save(self.resume_path, self.step.model, self.step.optimizer, self.state)

    def _save_adapters(self, name: str) -> int:
        return adapters.save(self.folder, name, self.step.model, self.adapter, self.state.fingerprint)
