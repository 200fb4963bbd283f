"""The state of a run on disk: what it takes to go on as if it had never stopped.

One safetensors file holds adapters, optimizer state and random key, its header the counters; it is replaced
atomically, so a kill at any moment leaves a whole one.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_unflatten

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import arrays
from medtune.model.arrays import flat, numbers, random_key, set_random_key
from medtune.model.tensors import Shard
from medtune.training.cluster import ALONE, Cluster
from medtune.training.state import RunState


def save(path: Path, model: Any, optimizer: optim.Optimizer, state: RunState) -> None:
    """Write the whole state atomically."""
    tensors = {f"adapters.{name}": value for name, value in flat(model.trainable_parameters()).items()}
    tensors |= {f"optimizer.{name}": value for name, value in flat(optimizer.state).items()}
    tensors["random"] = mx.array(random_key(), mx.uint32)
    arrays.save(path, tensors, {"format": "mlx", "progress": json.dumps(asdict(state))})


def load(
    path: Path, model: Any, optimizer: optim.Optimizer, fingerprint: str, cluster: Cluster = ALONE
) -> RunState | None:
    """Restore model, optimizer and random key in place; None where there is no state to go on from.

    Only the leader of a cluster has the file; it tells the others.
    """
    state = _read(path, model, optimizer, fingerprint) if cluster.leads else None
    text = cluster.text_from_leader(json.dumps(asdict(state)) if state else "")
    if not text:
        return None
    model.update(cluster.from_leader(model.trainable_parameters()))
    optimizer.state = cluster.from_leader(optimizer.state)
    return RunState(**json.loads(text))


def _read(path: Path, model: Any, optimizer: optim.Optimizer, fingerprint: str) -> RunState | None:
    if not path.exists():
        return None
    tensors, state = _stored(path)
    if state.fingerprint != fingerprint:
        raise UserError(
            tr(
                "{run}: holds an unfinished training with other settings or data; train elsewhere: RUN={free}",
                run=path.parent,
                free=files.beside(path.parent),
            )
        )
    model.update(
        tree_unflatten([(k.removeprefix("adapters."), v) for k, v in tensors.items() if k.startswith("adapters.")])
    )
    moments = [(k.removeprefix("optimizer."), v) for k, v in tensors.items() if k.startswith("optimizer.")]
    optimizer.state = tree_unflatten(moments)
    set_random_key(numbers(tensors["random"]))
    return state


def _stored(path: Path) -> tuple[dict[str, mx.array], RunState]:
    try:
        Shard.open(path)  # MLX would find a short file only when it reads the tensors
        loaded: Any = mx.load(str(path), return_metadata=True)
        tensors, header = loaded
        return tensors, RunState(**json.loads(header["progress"]))
    except (UserError, KeyError, TypeError, json.JSONDecodeError):
        raise UserError(tr("{path}: damaged; remove it to start this run anew", path=path)) from None


def prune(folder: Path, state: RunState, keep_last: int) -> None:
    """Delete the oldest numbered checkpoints beyond ``keep_last``; the best is kept apart in adapters.safetensors."""
    while len(state.saved) > keep_last:
        (folder / state.saved.pop(0)["file"]).unlink(missing_ok=True)
