"""What is written down while a contender runs: when each step ended, what it lost, what memory it took."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


@dataclass
class Watch:
    """The clock of one contender's process; all times are seconds since ``started``, when it was asked for."""

    started: float  # time.time() of the process that asked
    ends: list[float] = field(default_factory=list)  # of each step
    losses: list[float] = field(default_factory=list)  # mean -log p per supervised token
    val_loss: float | None = None
    trunk_seconds: float = 0.0
    trunk_peak: int = 0  # bytes MLX held at most before training, where that was apart
    peak: int = 0  # bytes MLX held at most, in training where the trunk was apart
    process_peak: int = 0  # bytes of the whole process at most
    processor_seconds: float = 0.0  # of all threads: steadier than the clock where others use the machine
    finished: float = 0.0

    def step(self, loss: float, moment: float | None = None) -> None:
        """A step has ended, at ``moment`` (time.time()) where it was not just now."""
        self.ends.append((moment or time.time()) - self.started)
        self.losses.append(loss)

    def close(self) -> dict[str, Any]:
        """Read the memory and return all that was written down."""
        import mlx.core as mx

        self.finished = time.time() - self.started
        self.peak = self.peak or mx.get_peak_memory()
        self.process_peak = process_peak()
        self.processor_seconds = time.process_time()
        return asdict(self)


def process_peak() -> int:
    """Bytes of memory this process has had at most.

    Linux counts its parent's into ru_maxrss, so there the kernel's own figure for this program is read.
    """
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
