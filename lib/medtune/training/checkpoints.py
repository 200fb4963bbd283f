"""The state of a run on disk: what it takes to go on as if it had never stopped.

One safetensors file holds adapters, optimizer state and random key, its header the counters; it is replaced
atomically, so a kill at any moment leaves a whole one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_unflatten

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import adapters
from medtune.model.arrays import flat, numbers, random_key, set_random_key
from medtune.model.tensors import Shard
from medtune.training.cluster import ALONE, Cluster

RESUME = "resume.safetensors"


@dataclass
class Progress:
    """The counters of a run; everything that decides the next step or the final receipt."""

    fingerprint: str  # of config and data set: a state of another run is refused
    step: int = 0
    micro: int = 0  # micro-batches a step is cut into; 0: as configured
    best: float | None = None  # lowest validation loss
    best_step: int = 0
    waited: int = 0  # validations since the best
    seconds: float = 0.0  # of training, without set-up
    totals: dict[str, float] = field(default_factory=dict)  # tokens, supervised tokens, padding so far
    window: dict[str, Any] = field(default_factory=dict)  # sums since the last report
    first: dict[str, Any] = field(default_factory=dict)  # first measured losses
    last: dict[str, Any] = field(default_factory=dict)  # latest measured losses
    best_by_dim: dict[str, float] = field(default_factory=dict)
    share: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # loss per dimension, summed
    gradient: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # norms per dimension, summed
    saved: list[dict[str, Any]] = field(default_factory=list)  # numbered checkpoints


def save(path: Path, model: Any, optimizer: optim.Optimizer, progress: Progress) -> None:
    """Write the whole state atomically."""
    tensors = {f"adapters.{name}": value for name, value in flat(model.trainable_parameters()).items()}
    tensors |= {f"optimizer.{name}": value for name, value in flat(optimizer.state).items()}
    tensors["random"] = mx.array(random_key(), mx.uint32)
    with files.atomic(path) as partial:
        mx.save_safetensors(str(partial), tensors, {"format": "mlx", "progress": json.dumps(asdict(progress))})


def load(
    path: Path, model: Any, optimizer: optim.Optimizer, fingerprint: str, cluster: Cluster = ALONE
) -> Progress | None:
    """Restore model, optimizer and random key in place; None where there is no state to go on from.

    Only the leader of a cluster has the file; it tells the others.
    """
    progress = _read(path, model, optimizer, fingerprint) if cluster.leads else None
    text = cluster.text_from_leader(json.dumps(asdict(progress)) if progress else "")
    if not text:
        return None
    model.update(cluster.from_leader(model.trainable_parameters()))
    optimizer.state = cluster.from_leader(optimizer.state)
    return Progress(**json.loads(text))


def _read(path: Path, model: Any, optimizer: optim.Optimizer, fingerprint: str) -> Progress | None:
    if not path.exists():
        return None
    tensors, progress = _stored(path)
    if progress.fingerprint != fingerprint:
        raise UserError(
            f"{path.parent}: holds an unfinished run of other settings or data; train into another folder "
            f"(make train RUN=...) or remove {path}"
        )
    model.update(
        tree_unflatten([(k.removeprefix("adapters."), v) for k, v in tensors.items() if k.startswith("adapters.")])
    )
    state = [(k.removeprefix("optimizer."), v) for k, v in tensors.items() if k.startswith("optimizer.")]
    optimizer.state = tree_unflatten(state)
    set_random_key(numbers(tensors["random"]))
    return progress


def _stored(path: Path) -> tuple[dict[str, mx.array], Progress]:
    try:
        Shard.open(path)  # MLX would find a short file only when it reads the tensors
        loaded: Any = mx.load(str(path), return_metadata=True)
        tensors, header = loaded
        return tensors, Progress(**json.loads(header["progress"]))
    except (UserError, KeyError, TypeError, json.JSONDecodeError):
        raise UserError(tr("{path}: damaged; remove it to start this run anew", path=path)) from None


def save_adapters(folder: Path, name: str, model: Any, config: adapters.AdapterConfig) -> int:
    """Write the adapters as ``folder/name`` beside their adapter_config.json; returns the bytes written."""
    adapters.save_weights(folder / name, adapters.weights(model))
    files.write_json(folder / adapters.CONFIG, config.to_json())
    return (folder / name).stat().st_size


def prune(folder: Path, progress: Progress, keep_last: int) -> None:
    """Delete the oldest numbered checkpoints beyond ``keep_last``; the best is kept apart in adapters.safetensors."""
    while len(progress.saved) > keep_last:
        (folder / progress.saved.pop(0)["file"]).unlink(missing_ok=True)
