"""Several machines that train as one: each takes its share of every batch, gradients are summed.

The sums are weighted by tokens because each machine divides by the counts of the whole batch, which all of them know.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.errors import UserError
from medtune.i18n import tr

STALL_SECONDS = 900  # without a word from any machine: MLX's ring can dead-lock (mlx #4475)
TAIL_LINES = 12  # of the machines' output that are repeated when they fail
STOP = ".stop"  # file in the run folder that asks the machines to save and stop


@dataclass(frozen=True)
class Cluster:
    """This process among the others; ``group`` is None where it is alone."""

    group: Any = None
    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Cluster:
        """The cluster that mlx.launch started, or a cluster of one."""
        import mlx.core as mx

        group = mx.distributed.init()
        return cls(group, group.rank(), group.size()) if group.size() > 1 else cls()

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, items: Sequence[int]) -> list[int]:
        """This process's part of a batch."""
        return list(items[self.rank :: self.size])

    def sum(self, tree: Any) -> Any:
        """Sum of a tree of arrays over all processes."""
        if self.group is None:
            return tree
        import mlx.core as mx
        from mlx.utils import tree_map

        return tree_map(lambda array: mx.distributed.all_sum(array, group=self.group), tree)

    def any(self, flag: bool) -> bool:
        """Whether it is true for any process."""
        if self.group is None:
            return flag
        import mlx.core as mx

        from medtune.model.arrays import scalar

        return scalar(self.sum(mx.array(float(flag)))) > 0

    def from_leader(self, tree: Any) -> Any:
        """The leader's tree of arrays, on every process; shapes must agree."""
        if self.group is None:
            return tree
        import mlx.core as mx
        from mlx.utils import tree_map

        return self.sum(tree if self.leads else tree_map(mx.zeros_like, tree))

    def text_from_leader(self, text: str) -> str:
        """The leader's text, on every process."""
        if self.group is None:
            return text
        import mlx.core as mx
        import numpy as np

        data = np.frombuffer(text.encode(), np.uint8) if self.leads else np.zeros(0, np.uint8)
        size = int(self.sum(mx.array(len(data))).item())  # type: ignore[arg-type]
        padded = np.zeros(size, np.int32)
        padded[: len(data)] = data
        return bytes(np.array(self.sum(mx.array(padded))).astype(np.uint8)).decode()


ALONE = Cluster()


def launch(hosts: str, command: Sequence[str], results: Path) -> dict[str, Any]:
    """Run ``command`` on ``hosts`` through mlx.launch and return what the leader wrote to ``results``.

    ``hosts``: a number of processes on this machine, a comma-separated list of machines, or a hostfile. The exit
    code of mlx.launch is 0 even when a machine failed, so that only the leader's results count.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    results.unlink(missing_ok=True)
    stop = results.parent / STOP
    stop.unlink(missing_ok=True)
    log = results.parent / "cluster.log"
    launcher = [str(Path(sys.executable).with_name("mlx.launch")), *_where(hosts), "--"]
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*launcher, sys.executable, *command],
            stdin=subprocess.PIPE,  # mlx.launch spins on a standard input that has ended
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone; we ask the machines to save first
        )
        try:
            interrupted = _watch(process, log, stop)
        finally:  # we may have nobody to speak to any more: no machine goes on without us
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            stop.unlink(missing_ok=True)
    if interrupted:
        raise KeyboardInterrupt
    if not results.exists():
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        raise UserError(
            tr(
                "a machine failed; the last checkpoint is kept, the same command goes on from it; the end of {log}:",
                log=log,
            )
            + "".join(f"\n  {line}" for line in tail)
        )
    found = json.loads(results.read_text(encoding="utf-8"))
    results.unlink()
    return found


def _where(hosts: str) -> list[str]:
    if hosts.isdigit():
        return ["-n", hosts]
    return ["--hostfile", hosts] if Path(hosts).exists() else ["--hosts", hosts]


def _watch(process: subprocess.Popen[bytes], log: Path, stop: Path) -> bool:
    """Repeat the machines' output until they end; True when the person interrupted. Stalled machines are ended."""
    shown, heard, interrupted = 0, time.monotonic(), False
    while True:
        try:
            ended = process.poll() is not None
            text = log.read_text(encoding="utf-8", errors="replace")
            if len(text) > shown:
                print(text[shown:], end="", flush=True)
                shown, heard = len(text), time.monotonic()
            if ended:
                return interrupted
            if time.monotonic() - heard > STALL_SECONDS:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.2)
        except KeyboardInterrupt:
            if interrupted:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            interrupted = True
            stop.touch()


def scratch(run: Path, rank: int) -> Path:
    """Where a process that does not lead writes what nobody reads, until it ends."""
    folder = tempfile.mkdtemp(prefix=f"medtune-{run.name}-{rank}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
