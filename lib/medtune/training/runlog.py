"""What a run says while it runs: metrics.jsonl for programs, a log file and the screen for people."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from medtune import files
from medtune.schemas import TrainConfig

WEIGHTS, CONFIG, METRICS = "adapters.safetensors", "adapter_config.json", "metrics.jsonl"
OUTPUTS = (WEIGHTS, CONFIG, METRICS)  # what a finished run leaves for the next stages


def settings_hash(config: TrainConfig) -> str:
    """What tells a run's measurements from those of a run with other settings in the same folder."""
    return files.hash_of(config.model_dump(mode="json"))


class RunLog:
    """Appends metrics and text lines of one run; a resumed run goes on in the same files."""

    def __init__(self, folder: Path, total: int, resumed_at: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics_path = folder / METRICS
        _forget_after(self._metrics_path, resumed_at)
        self._metrics = open(self._metrics_path, "a", encoding="utf-8")  # noqa: SIM115 - open for the whole run
        self._text = open(_text_log(folder, resumed_at > 0), "a", encoding="utf-8")  # noqa: SIM115
        self._bar = tqdm(total=total, initial=resumed_at, unit="step", disable=not sys.stderr.isatty(), leave=False)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._metrics.close()
        self._text.close()

    def metric(self, kind: str, step: int, **values: Any) -> None:
        """Append one line to metrics.jsonl at once: the monitor reads it while we run."""
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        self._metrics.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._metrics.flush()

    def say(self, line: str) -> None:
        """A line for people, above the progress bar and in the log file."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
        self._text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        self._text.flush()

    def advance(self, loss: float | None = None) -> None:
        """One step is done."""
        if loss is not None:
            self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._bar.update()


def _forget_after(path: Path, step: int) -> None:
    """Keep only what was measured up to ``step``: what came after the last checkpoint is measured again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the line that was being written when the run was killed
            continue
        if step and row["step"] <= step and not (row["kind"] == "event" and row.get("name") in ("stop", "finish")):
            kept.append(line)
    files.write_jsonl(path, kept)


def _text_log(folder: Path, resumed: bool) -> Path:
    """training_real_<epoch seconds of the start>.log; a resumed run goes on in the newest."""
    logs = sorted(folder.glob("training_real_*.log"), key=os.path.getmtime)
    return logs[-1] if resumed and logs else folder / f"training_real_{int(time.time())}.log"
