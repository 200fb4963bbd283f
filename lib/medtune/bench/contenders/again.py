"""Our trainer: the next run on the same data, or a sweep: the trunk never runs."""

from __future__ import annotations

from medtune.bench import ours
from medtune.bench.job import Job, Kind
from medtune.bench.watch import Watch

NAME = "ours, cache filled"
KIND: Kind = "all"


def run(job: Job, watch: Watch) -> None:
    """Train the job."""
    ours.train(job, watch, KIND, "filled")
