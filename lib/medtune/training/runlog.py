"""What a run says while it runs: metrics.jsonl for programs, a log file and the screen for people."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from medtune import files
from medtune.i18n import tr
from medtune.metrics import MetricsLog, settings_hash
from medtune.progress import duration
from medtune.run import LOGS, METRICS, Run
from medtune.schemas import TrainConfig
from medtune.training.state import RunState, Window, peak_memory_gb, shares
from medtune.training.step import learning_rate
from medtune.training.validation import Losses


class RunLog:
    """Metrics and text lines of one run, whose counters are ``state``; a resumed run goes on in the same files."""

    def __init__(self, folder: Path, config: TrainConfig, state: RunState) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._config, self._state, self._command = config, state, Run(folder).command("train")
        self._metrics = MetricsLog(folder / METRICS, state.step)
        self._path = _text_log(folder, state.step > 0)
        self._text = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        quiet = not sys.stderr.isatty()
        self._bar = tqdm(total=config.iters, initial=state.step, unit="step", disable=quiet, leave=False)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._metrics.close()
        with files.named(self._path):
            self._text.close()

    def begin(self) -> None:
        """Training starts, or goes on from a state."""
        step = self._state.step
        self._event("resume" if step else "start", settings=settings_hash(self._config))
        self._say(tr("resuming at step {step}", step=step) if step else tr("training starts"))

    def advance(self, loss: float) -> None:
        """One step is done."""
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._bar.update()

    def report(self, window: Window) -> None:
        """What was measured since the report before."""
        state, peak, lr = self._state, peak_memory_gb(), learning_rate(self._config, self._state.step)
        self._metrics.add(
            "train",
            state.step,
            loss=window.losses.loss,
            loss_by_dim=window.losses.by_dim,
            objective=window.objective,
            lr=lr,
            grad_norm=window.grad_norm,
            tokens=int(state.totals["tokens"]),
            supervised_tokens=int(state.totals["supervised_tokens"]),
            tokens_per_sec=round(window.tokens_per_sec, 1),
            it_per_sec=round(window.it_per_sec, 3),
            peak_memory_gb=peak,
            padding_fraction=round(window.padding, 4),
        )
        self._say(
            tr(
                "step {step}/{total}  loss {loss:.3f}  lr {lr:.2e}  {tok:.0f} tok/s  {it:.2f} it/s  {gb:.2f} GB  "
                "ETA {eta}",
                step=state.step,
                total=self._config.iters,
                loss=window.losses.loss,
                lr=lr,
                tok=window.tokens_per_sec,
                it=window.it_per_sec,
                gb=peak,
                eta=duration((self._config.iters - state.step) * state.seconds / state.step),
            )
        )

    def validated(self, step: int, losses: Losses, margin: float | None, seconds: float) -> None:
        """A validation, counted for ``step``: the first one, before any training, counts for step 1."""
        self._metrics.add(
            "valid",
            step,
            loss=losses.loss,
            loss_by_dim=losses.by_dim,
            reward_margin=margin,
            gradient_share=shares(self._state.gradient),
            supervised_tokens=losses.rows,
            seconds=round(seconds, 3),
        )
        parts = "  ".join(f"{dim} {loss:.3f}" for dim, loss in losses.by_dim.items())
        self._say(tr("step {step}: val_loss {loss:.4f}  ({parts})", step=step, loss=losses.loss, parts=parts))

    def checkpoint(self, file: str) -> None:
        """A numbered checkpoint was written."""
        self._metrics.add("checkpoint", self._state.step, file=file, best=self._state.best_step == self._state.step)

    def halved(self) -> None:
        """Memory ran out; smaller micro-batches from here on."""
        text = tr("out of memory: going on with {n} micro-batches a step, the result is the same", n=self._state.micro)
        self._say(text)
        self._event("warning", text=text)

    def impatient(self, waited: int) -> None:
        """So many validations were no better: the training ends early."""
        self._say(
            tr("no better val_loss in {n} validations: stopping early at step {step}", n=waited, step=self._state.step)
        )

    def saved(self) -> None:
        """Somebody asked to stop; the state is on disk."""
        self._event("stop")
        self._say(
            tr("saved at step {step}; `{command}` goes on from here", step=self._state.step, command=self._command)
        )

    def end(self, stopped: str) -> None:
        """The training is over: finished, or stopped early."""
        self._event("finish" if stopped == "finished" else stopped)

    def _event(self, name: str, text: str = "", **values: Any) -> None:
        self._metrics.add("event", self._state.step, name=name, total_steps=self._config.iters, text=text, **values)

    def _say(self, line: str) -> None:
        """A line for people, above the progress bar and in the log file."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
        with files.named(self._path):
            self._text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            self._text.flush()


def _text_log(folder: Path, resumed: bool) -> Path:
    """training_real_<epoch seconds of the start>.log; a resumed run goes on in the newest."""
    logs = sorted(folder.glob(LOGS), key=os.path.getmtime)
    return logs[-1] if resumed and logs else folder / LOGS.replace("*", str(int(time.time())))
