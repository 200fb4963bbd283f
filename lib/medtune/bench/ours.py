"""Our trainer on a job: what train_final does, from the job's adapters, on the batches mlx-vlm would take."""

from __future__ import annotations

import shutil
from typing import Literal

from medtune import files
from medtune.bench.job import Job, Kind
from medtune.bench.watch import Watch
from medtune.dataset import Dataset
from medtune.model import runtime
from medtune.model.base import find


def train(job: Job, watch: Watch, kind: Kind, cache: Literal["on", "off", "filled"]) -> None:
    """Train with the trunk cache: from an empty one (on), without (off), or with what an earlier run left (filled)."""
    runtime.start()
    import mlx.core as mx

    from medtune.model import adapters
    from medtune.training import job as training

    run, store = job.folder / "ours", job.folder / f"trunk-{kind}"
    for stale in (run, store)[: 1 if cache == "filled" else 2]:
        shutil.rmtree(stale, ignore_errors=True)
    training.CACHE = store
    settings = job.settings.model_copy(
        update={"trunk_cache": "off" if cache == "off" else "on", "iters": job.steps(kind)}
    )
    ready = training.assemble(Dataset.open(job.data(kind)), find(settings.base_model), settings, run)
    adapters.load_weights(ready.trainer.step.model, job.adapters / adapters.WEIGHTS)
    ready.trainer.plan = job.order(kind)
    if cache != "off":
        watch.trunk_seconds, watch.trunk_peak = ready.facts["trunk_seconds"], mx.get_peak_memory()
        mx.reset_peak_memory()
    results = ready.run()
    for _, line in files.read_jsonl(run / "metrics.jsonl"):
        if line["kind"] == "train":
            watch.step(line["loss"], line["time"])
    watch.val_loss, watch.peak = results["val_loss"]["last"], mx.get_peak_memory()
