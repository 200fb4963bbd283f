"""Our trainer: nothing is kept: the whole model runs at every step."""

from __future__ import annotations

from medtune.bench import ours
from medtune.bench.job import Job, Kind
from medtune.bench.watch import Watch

NAME = "ours without cache"
KIND: Kind = "all"


def run(job: Job, watch: Watch) -> None:
    """Train the job."""
    ours.train(job, watch, KIND, "off")
