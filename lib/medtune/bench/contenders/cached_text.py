"""Our trainer: the rows mlx_lm.lora can train on."""

from __future__ import annotations

from medtune.bench import ours
from medtune.bench.job import Job, Kind
from medtune.bench.watch import Watch

NAME = "ours, text rows"
KIND: Kind = "text"


def run(job: Job, watch: Watch) -> None:
    """Train the job."""
    ours.train(job, watch, KIND, "on")
