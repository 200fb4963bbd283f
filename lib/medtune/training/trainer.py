"""The training loop: steps, reports, validation, checkpoints, and the reasons to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import adapters
from medtune.model.arrays import numbers, scalar
from medtune.progress import duration
from medtune.records import DIMENSIONS
from medtune.schemas import TrainConfig
from medtune.training import checkpoints, validation
from medtune.training import interrupt as signals
from medtune.training.checkpoints import Progress
from medtune.training.cluster import STOP
from medtune.training.dataloader import Feed, MicroBatch, Size
from medtune.training.runlog import RunLog, settings_hash
from medtune.training.sampler import Plan, by_length
from medtune.training.step import Outcome, Step, learning_rate
from medtune.training.validation import Losses

MEMORY_WORDS = ("memory", "malloc", "alloc")  # in what MLX raises on Metal, CUDA and CPU when there is none left
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
        feeds: tuple[Feed, Feed],
        plan: Plan,
        fingerprint: str,
    ) -> None:
        self.cluster = step.cluster
        self.step, self.adapter, self.config, self.folder, self.plan = step, adapter, config, folder, plan
        self.train_feed, self.valid_feed = feeds
        self.resume_path = folder / checkpoints.RESUME
        restored = checkpoints.load(self.resume_path, step.model, step.optimizer, fingerprint, step.cluster)
        self.progress = restored or Progress(fingerprint)
        self.stopped = "finished"

    def run(self) -> Progress:
        """Train to the end, or until patience runs out; Ctrl-C saves first and then stops the program."""
        mx.set_cache_limit(CACHE_BYTES)
        start = self.progress.step
        # One of several may wait for a dead one inside MLX, where no handler is ever reached: SIGTERM must end it.
        deferred = signals.deferred(self.folder / STOP if self.cluster.size > 1 else None)
        with RunLog(self.folder, self.config.iters, start) as log, deferred as interrupt:
            log.metric(
                "event",
                start,
                name="resume" if start else "start",
                total_steps=self.config.iters,
                settings=settings_hash(self.config),
                text="",
            )
            log.say(tr("resuming at step {step}", step=start) if start else tr("training starts"))
            if not start:
                self._validate(log, 1)
            self._steps(log, interrupt)
            self._finish(log)
        return self.progress

    def _steps(self, log: RunLog, interrupt: signals.Interrupt) -> None:
        """All steps that are left, in smaller micro-batches from where memory ran out."""
        self.progress.micro = self.progress.micro or self.config.grad_accumulation_steps
        while self.progress.step < self.config.iters and self.stopped == "finished":
            try:
                self._steps_in(self.progress.micro, log, interrupt)
            except OutOfMemory:
                self._halve(log)

    def _steps_in(self, micro: int, log: RunLog, interrupt: signals.Interrupt) -> None:
        """Steps of ``micro`` micro-batches each."""
        config, progress = self.config, self.progress
        mine = [self.cluster.share(chosen) for chosen in self.plan]
        stream = self.train_feed.stream(
            share[i::micro] for share in mine[progress.step : config.iters] for i in range(micro)
        )
        clock = time.perf_counter()
        for number in range(progress.step + 1, config.iters + 1):
            batches = [next(stream) for _ in range(micro)]
            whole = self._size(number, micro)
            outcome = self._step(batches, number, whole)
            self._guard(outcome, number)
            progress.step = number
            progress.seconds += time.perf_counter() - clock
            self._count(outcome, whole)
            log.advance(scalar(outcome.loss))
            self._milestones(log, batches, whole)
            if self._out_of_patience(log):
                return
            if self.cluster.any(interrupt.requested):
                self._interrupted(log)
            clock = time.perf_counter()

    def _size(self, number: int, micro: int) -> Size:
        """What step ``number`` holds over all machines and micro-batches."""
        chosen, ranks = self.plan[number - 1], self.cluster.size
        return Size.sum(self.train_feed.size(chosen[r::ranks][i::micro]) for r in range(ranks) for i in range(micro))

    def _step(self, batches: Sequence[MicroBatch], number: int, whole: Size) -> Outcome:
        """One step, evaluated; where memory is short, everything is as before it and OutOfMemory is raised."""
        parameters, state = self.step.model.trainable_parameters(), tree_map(lambda x: x, self.step.optimizer.state)
        try:
            outcome = self.step(batches, number, whole)
            mx.eval(outcome, self.step.model.trainable_parameters(), self.step.optimizer.state)
        except RuntimeError as error:
            if self.cluster.size > 1 or not any(word in str(error).lower() for word in MEMORY_WORDS):
                raise
            self.step.model.update(parameters)
            self.step.optimizer.state = state
            raise OutOfMemory from error
        return outcome

    def _milestones(self, log: RunLog, batches: Sequence[MicroBatch], whole: Size) -> None:
        """What is due at this step: report, validation, checkpoint."""
        config, number = self.config, self.progress.step
        last = number == config.iters
        if number % config.steps_per_report == 0 or last:
            self._report(log)
        if number % config.steps_per_eval == 0 or last:
            self._validate(log, number, self.step.gradient_norms(batches, whole))
        if number % config.save_every == 0 or last:
            self._checkpoint(log)

    def _halve(self, log: RunLog) -> None:
        """Cut each step into twice as many micro-batches: less memory, the same result."""
        mx.clear_cache()
        progress, size = self.progress, self.config.batch_size
        if progress.micro >= size:
            raise UserError(
                tr(
                    "out of memory with one example at a time at step {step}; set grad_checkpoint: on, lower "
                    "data.yaml's max_seq_length or close other programs; `make plan` says what fits",
                    step=progress.step + 1,
                )
            )
        progress.micro = next(n for n in range(progress.micro * 2, size + 1) if size % n == 0 or n == size)
        checkpoints.save(self.resume_path, self.step.model, self.step.optimizer, progress)
        text = tr("out of memory: going on with {n} micro-batches a step, the result is the same", n=progress.micro)
        log.say(text)
        log.metric("event", progress.step, name="warning", total_steps=self.config.iters, text=text)

    def _guard(self, outcome: Outcome, number: int) -> None:
        """A loss that is no number any more ends the run before it can be saved."""
        if math.isfinite(scalar(outcome.loss)) and math.isfinite(scalar(outcome.grad_norm)):
            return
        ids = ", ".join(self.train_feed.lessons[index].example.id for index in self.plan[number - 1])
        raise UserError(
            tr(
                "step {step}: the loss or gradient is not finite on examples {ids}; the last checkpoint is kept; look "
                "at these records or lower optimizer.learning_rate",
                step=number,
                ids=ids,
            )
        )

    def _count(self, outcome: Outcome, whole: Size) -> None:
        terms = outcome.terms
        for name, values in (("nll", terms.nll), ("rows", terms.rows)):
            sums = self.progress.window.setdefault(name, [0.0] * len(DIMENSIONS))
            self.progress.window[name] = [a + b for a, b in zip(sums, numbers(values), strict=True)]
        self.progress.share = [a + b for a, b in zip(self.progress.share, numbers(terms.loss), strict=True)]
        counts = {
            "steps": 1.0,
            "objective": scalar(outcome.loss),
            "grad_norm": scalar(outcome.grad_norm),
            "tokens": whole.tokens,
            "padded": whole.padded,
            "supervised_tokens": whole.supervised,
        }
        for name, value in counts.items():
            self.progress.window[name] = self.progress.window.get(name, 0.0) + value
            self.progress.totals[name] = self.progress.totals.get(name, 0.0) + value

    def _report(self, log: RunLog) -> None:
        progress, window = self.progress, self.progress.window
        losses = Losses.of(window["nll"], window["rows"])
        seconds = max(progress.seconds - window.get("since", 0.0), 1e-9)
        lr = learning_rate(self.config, progress.step)
        log.metric(
            "train",
            progress.step,
            loss=losses.loss,
            loss_by_dim=losses.by_dim,
            objective=window["objective"] / window["steps"],
            lr=lr,
            grad_norm=window["grad_norm"] / window["steps"],
            tokens=int(progress.totals["tokens"]),
            supervised_tokens=int(progress.totals["supervised_tokens"]),
            tokens_per_sec=round(window["tokens"] / seconds, 1),
            it_per_sec=round(window["steps"] / seconds, 3),
            peak_memory_gb=round(mx.get_peak_memory() / 2**30, 3),
            padding_fraction=round(1 - window["tokens"] / window["padded"], 4),
        )
        left = (self.config.iters - progress.step) * progress.seconds / progress.step
        log.say(
            tr(
                "step {step}/{total}  loss {loss:.3f}  lr {lr:.2e}  {tok:.0f} tok/s  {it:.2f} it/s  {gb:.2f} GB  "
                "ETA {eta}",
                step=progress.step,
                total=self.config.iters,
                loss=losses.loss,
                lr=lr,
                tok=window["tokens"] / seconds,
                it=window["steps"] / seconds,
                gb=mx.get_peak_memory() / 2**30,
                eta=duration(left),
            )
        )
        progress.first.setdefault("train_loss", losses.loss)
        progress.last["train_loss"] = losses.loss
        progress.window = {"since": progress.seconds}

    def _validate(self, log: RunLog, number: int, gradient_norms: Sequence[float] = ()) -> None:
        """Loss over the whole validation set, and the adapters when they are the best so far."""
        started = time.perf_counter()
        losses, margin = validation.validate(self.step, self.valid_feed, self.config)
        progress = self.progress
        if gradient_norms:
            progress.gradient = [a + b for a, b in zip(progress.gradient, gradient_norms, strict=True)]
        log.metric(
            "valid",
            number,
            loss=losses.loss,
            loss_by_dim=losses.by_dim,
            reward_margin=margin,
            gradient_share=_shares(progress.gradient),
            supervised_tokens=losses.rows,
            seconds=round(time.perf_counter() - started, 3),
        )
        parts = "  ".join(f"{dim} {loss:.3f}" for dim, loss in losses.by_dim.items())
        log.say(tr("step {step}: val_loss {loss:.4f}  ({parts})", step=number, loss=losses.loss, parts=parts))
        progress.first.setdefault("val_loss", losses.loss)
        progress.first.setdefault("val_by_dim", losses.by_dim)
        progress.last |= {"val_loss": losses.loss, "reward_margin": margin}
        if progress.best is None or losses.loss < progress.best:
            progress.best, progress.best_step, progress.waited = losses.loss, progress.step, 0
            progress.best_by_dim = losses.by_dim
            if self.config.select.by == "val_loss":
                checkpoints.save_adapters(self.folder, adapters.WEIGHTS, self.step.model, self.adapter)
        else:
            progress.waited += 1

    def _checkpoint(self, log: RunLog) -> None:
        progress = self.progress
        name = f"{progress.step:07d}_{adapters.WEIGHTS}"
        size = checkpoints.save_adapters(self.folder, name, self.step.model, self.adapter)
        progress.saved.append(
            {"step": progress.step, "file": name, "bytes": size, "val_loss": progress.last["val_loss"]}
        )
        checkpoints.prune(self.folder, progress, self.config.keep_last)
        checkpoints.save(self.resume_path, self.step.model, self.step.optimizer, progress)
        log.metric("checkpoint", progress.step, file=name, best=progress.best_step == progress.step)

    def _out_of_patience(self, log: RunLog) -> bool:
        patience = self.config.select.patience
        if patience is None or self.progress.waited < patience or self.progress.step == self.config.iters:
            return False
        text = tr(
            "no better val_loss in {n} validations: stopping early at step {step}",
            n=patience,
            step=self.progress.step,
        )
        log.say(text)
        if "steps" in self.progress.window:  # taken since the last report
            self._report(log)
        self._checkpoint(log)
        self.stopped = "early_stop"
        return True

    def _interrupted(self, log: RunLog) -> None:
        checkpoints.save(self.resume_path, self.step.model, self.step.optimizer, self.progress)
        log.metric("event", self.progress.step, name="stop", total_steps=self.config.iters, text="")
        log.say(tr("saved at step {step}; the same command goes on from here", step=self.progress.step))
        raise KeyboardInterrupt

    def _finish(self, log: RunLog) -> None:
        if self.config.select.by == "last":
            checkpoints.save_adapters(self.folder, adapters.WEIGHTS, self.step.model, self.adapter)
        name = "finish" if self.stopped == "finished" else self.stopped
        log.metric("event", self.progress.step, name=name, total_steps=self.config.iters, text="")


def _shares(sums: Sequence[float]) -> dict[str, float]:
    """Sums per dimension as shares of their total, without the dimensions that have none."""
    total = sum(sums)
    return {dim: value / total for dim, value in zip(DIMENSIONS, sums, strict=True) if value}


def references(step: Step, feed: Feed, mine: Iterable[int], batch_size: int) -> None:
    """Fill in the log-probabilities of the compared answers among ``mine`` under the base model: adapters off."""
    chosen = [index for index in mine if feed.lessons[index].compared]
    plan = by_length([len(lesson.example.tokens) for lesson in feed.lessons], batch_size, chosen)
    with adapters.scaled(step.model, 0.0):
        for part, batch in zip(plan, feed.stream(plan), strict=True):
            feed.reference[part] = numbers(step.sequence_log_probs(batch))[: len(part)]


def summary(trainer: Trainer) -> dict[str, Any]:
    """The part of training.json's results that the loop knows."""
    progress, config = trainer.progress, trainer.config
    selected = progress.best_step if config.select.by == "val_loss" else progress.step
    selected_loss = progress.best if config.select.by == "val_loss" else progress.last["val_loss"]
    return {
        "steps": progress.step,
        "stopped": trainer.stopped,
        "train_loss": {"first": progress.first["train_loss"], "last": progress.last["train_loss"]},
        "val_loss": {
            "first": progress.first["val_loss"],
            "best": progress.best,
            "best_step": progress.best_step,
            "last": progress.last["val_loss"],
        },
        "val_loss_by_dim": {"first": progress.first["val_by_dim"], "best": progress.best_by_dim},
        "measured_share": _shares(progress.share),
        "gradient_share": _shares(progress.gradient),
        "reward_margin": progress.last["reward_margin"],
        "tokens": int(progress.totals["tokens"]),
        "supervised_tokens": int(progress.totals["supervised_tokens"]),
        "tokens_per_sec": round(progress.totals["tokens"] / progress.seconds, 1),
        "it_per_sec": round(progress.step / progress.seconds, 3),
        "peak_memory_gb": round(mx.get_peak_memory() / 2**30, 3),
        "train_seconds": round(progress.seconds, 2),
        "checkpoints": progress.saved,
        "selected": {"step": selected, "by": config.select.by, "val_loss": selected_loss},
    }
