"""mlx_lm.lora on the rows without an image, by its own ``train_model``; batches and their order are its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from medtune.bench.job import Job, RowKind
from medtune.bench.watch import Watch
from medtune.run import WEIGHTS

NAME = "mlx_lm.lora"
KIND: RowKind = "text"


def run(job: Job, watch: Watch) -> None:
    """Train the language model alone, supervising answers only."""
    import numpy as np
    from mlx_lm import load
    from mlx_lm.lora import CONFIG_DEFAULTS, train_model
    from mlx_lm.tuner.callbacks import TrainingCallback
    from mlx_lm.tuner.datasets import load_dataset

    class Reports(TrainingCallback):
        def on_train_loss_report(self, train_info: dict) -> None:
            watch.step(train_info["train_loss"])

        def on_val_loss_report(self, val_info: dict) -> None:
            watch.val_loss = val_info["val_loss"]

    work, steps = job.work, job.steps(KIND)
    args = SimpleNamespace(
        **CONFIG_DEFAULTS
        | {
            "model": str(job.model),
            "train": True,
            "data": str(job.rows(KIND)),
            "optimizer": "adamw",
            "optimizer_config": {"adamw": {"weight_decay": work.weight_decay, "bias_correction": True}},
            "mask_prompt": True,
            "num_layers": work.adapted,
            "batch_size": work.batch_size,
            "iters": steps,
            "val_batches": -1,
            "learning_rate": work.learning_rate,
            "steps_per_report": 1,
            "steps_per_eval": steps,
            "save_every": steps,
            "resume_adapter_file": str(job.adapters / WEIGHTS),
            "adapter_path": str(job.folder / "mlx_lm"),
            "max_seq_length": max(job.lengths) + 64,
            "lora_parameters": {
                "rank": work.rank,
                "dropout": 0.0,
                "scale": work.alpha / work.rank,
                "keys": [f"self_attn.{name}_proj" for name in "qkvo"],
            },
        }
    )
    np.random.seed(work.seed)
    model: Any
    tokenizer: Any
    model, tokenizer = load(str(job.model))[:2]
    train, valid, _ = load_dataset(args, tokenizer)
    train_model(args, model, train, valid, Reports())
