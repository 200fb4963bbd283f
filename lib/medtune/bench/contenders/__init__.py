"""The others, one per file: ``NAME`` for people, ``KIND`` of rows it can train on, ``run(job, watch)``; and ours."""

from __future__ import annotations

import importlib
from typing import Protocol

from medtune.bench.job import Job, RowKind
from medtune.bench.ours import OURS
from medtune.bench.watch import Watch

ORDER = ("vlm", "plain", "cached", "again", "lm", "cached_text")  # mlx-vlm first: the others are compared with it


class Contender(Protocol):
    """A trainer that takes the job."""

    NAME: str
    KIND: RowKind

    def run(self, job: Job, watch: Watch) -> None:
        """Train the job from its adapters, writing down every step."""
        ...


def get(name: str) -> Contender:
    """The contender called ``name``; none imports MLX before it runs."""
    return OURS.get(name) or importlib.import_module(f"{__name__}.{name}")  # type: ignore[return-value]
