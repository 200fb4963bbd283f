"""mlx_vlm.train: what its ``run`` does with the job's settings, but AdamW with bias correction, as all have it."""

from __future__ import annotations

from typing import Any

from medtune.bench.job import Job, RowKind
from medtune.bench.watch import Watch
from medtune.run import WEIGHTS

NAME = "mlx_vlm.train"
KIND: RowKind = "all"


def run(job: Job, watch: Watch) -> None:
    """Train with mlx-vlm's Trainer, supervising answers only."""
    import mlx.optimizers as optim
    from mlx_vlm import load
    from mlx_vlm.trainer import Trainer
    from mlx_vlm.trainer.common.callbacks import TrainingCallback
    from mlx_vlm.trainer.common.model import prepare_model_for_training
    from mlx_vlm.trainer.datasets.loading import load as load_rows
    from mlx_vlm.trainer.vlm.config import VLMTrainingArgs

    class Reports(TrainingCallback):
        def on_train_loss_report(self, train_info: dict) -> None:
            watch.step(train_info["train_loss"])

        def on_val_loss_report(self, val_info: dict) -> None:
            watch.val_loss = val_info["val_loss"]

    work, steps = job.work, job.steps(KIND)
    model, processor = load(str(job.model))
    rows: Any = load_rows(str(job.rows(KIND)))
    settings = VLMTrainingArgs(
        batch_size=work.batch_size,
        iters=steps,
        val_batches=-1,
        steps_per_report=1,
        steps_per_eval=steps,
        steps_per_save=steps,
        adapter_file=str(job.folder / "mlx_vlm" / WEIGHTS),
        max_seq_length=max(job.lengths) + 64,
        train_on_completions=True,
    )
    Trainer(
        prepare_model_for_training(model, checkpoint_path=job.adapters),
        settings,
        optimizer=optim.AdamW(work.learning_rate, weight_decay=work.weight_decay, bias_correction=True),
        train_dataset=rows["train"],
        eval_dataset=rows["valid"],
        processing_class=processor,
        seed=work.seed,
        training_callback=Reports(),
    ).train()
