"""Our trainer: the trunk runs once, then the top layers train from its cache."""

from __future__ import annotations

from medtune.bench import ours
from medtune.bench.job import Job, Kind
from medtune.bench.watch import Watch

NAME = "ours"
KIND: Kind = "all"


def run(job: Job, watch: Watch) -> None:
    """Train the job."""
    ours.train(job, watch, KIND, "on")
