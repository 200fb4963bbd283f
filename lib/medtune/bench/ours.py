"""Our trainer on a job: what train_final does, from the job's adapters, on the batches mlx-vlm would take."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Literal

from medtune.bench.job import Job, RowKind
from medtune.bench.watch import Watch
from medtune.dataset import Dataset
from medtune.metrics import History
from medtune.model import runtime
from medtune.model.base import Base
from medtune.run import METRICS, WEIGHTS


@dataclass(frozen=True)
class Ours:
    """Our trainer with its trunk cache: from an empty one (on), without (off), or with an earlier run's (filled)."""

    NAME: str
    KIND: RowKind
    cache: Literal["on", "off", "filled"]

    def run(self, job: Job, watch: Watch) -> None:
        """Train the job."""
        runtime.start()
        import mlx.core as mx

        from medtune.model import adapters
        from medtune.training.job import assemble

        run, store = job.folder / "ours", job.folder / f"trunk-{self.KIND}"
        for stale in (run, store)[: 1 if self.cache == "filled" else 2]:
            shutil.rmtree(stale, ignore_errors=True)
        settings = job.settings.model_copy(
            update={"trunk_cache": "off" if self.cache == "off" else "on", "iters": job.steps(self.KIND)}
        )
        dataset, base = Dataset.open(job.data(self.KIND)), Base.find(settings.base_model)
        ready = assemble(dataset, base, settings, run, store, order=job.order(self.KIND))
        adapters.load_tensors(ready.trainer.step.model, job.adapters / WEIGHTS)
        if self.cache != "off":
            watch.trunk_seconds, watch.trunk_peak = ready.facts["trunk_seconds"], mx.get_peak_memory()
            mx.reset_peak_memory()
        results = ready.run()
        for report in History.read(run / METRICS).of("train"):
            watch.step(report["loss"], report["time"])
        watch.val_loss, watch.peak = results["val_loss"]["last"], mx.get_peak_memory()


OURS = {
    "plain": Ours("ours without cache", "all", "off"),
    "cached": Ours("ours", "all", "on"),
    "again": Ours("ours, cache filled", "all", "filled"),  # the next run on the same data, or a sweep
    "cached_text": Ours("ours, text rows", "text", "on"),  # the rows mlx_lm.lora can train on
}
