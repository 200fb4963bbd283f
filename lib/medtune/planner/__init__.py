"""Will it fit? Parameters, memory, disk and time of a run, from config.json alone: no weights, no MLX."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from medtune.metrics import History, settings_hash
from medtune.model import published
from medtune.model.base import Base, NotHere
from medtune.planner.machines import GIB, Machine
from medtune.planner.model import CPU, GPU
from medtune.planner.plan import Measured, Plan, plan
from medtune.planner.workload import Load
from medtune.run import METRICS
from medtune.schemas import TrainConfig

__all__ = ["Load", "Machine", "Measured", "Plan", "for_run", "plan"]


def for_run(train: TrainConfig, data: Path, run: Path) -> Plan:
    """The plan of training on the data set in ``data`` on this machine.

    Without a data set its size is assumed; a step's time is known where ``run`` has measured some.
    """
    engine = GPU if sys.platform == "darwin" else CPU
    config = model_config(train.base_model)
    return plan(config, train, Load.find(data), engine, Machine.here(), measured(run / METRICS, train))


def measured(metrics: Path, train: TrainConfig) -> Measured | None:
    """What the last report of a run with these settings says; None before the first, and of a run with others."""
    history = History.read(metrics)
    settings = [row.get("settings") for row in history.of("event") if row.get("name") in ("start", "resume")]
    if settings[-1:] != [settings_hash(train)]:
        return None
    reports = [row for row in history.of("train") if row["it_per_sec"]]
    return Measured(1 / reports[-1]["it_per_sec"], reports[-1]["peak_memory_gb"] * GIB) if reports else None


def model_config(name: str) -> dict[str, Any]:
    """config.json of the base model ``name``: from its folder where it is here, else built in."""
    try:
        return Base.find(name).config
    except NotHere:
        found = published.config(name)
        if found is None:
            raise
        return found
