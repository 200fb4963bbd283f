"""The state of a run on disk: what it takes to go on as if it had never stopped.

One safetensors file holds adapters, optimizer state and random key, its header the counters and a seal, the hash of
all the rest; it is replaced atomically, so a kill at any moment leaves a whole one.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_unflatten

from medtune import files
from medtune.errors import UserError
from medtune.files import folders
from medtune.i18n import tr
from medtune.model import adapters, arrays
from medtune.model.arrays import flat, numbers, random_key, set_random_key
from medtune.model.tensors import CHUNK, Shard
from medtune.run import WEIGHTS
from medtune.training.cluster import ALONE, Cluster
from medtune.training.state import RunState

BLANK = "0" * 64  # where the seal goes
SEAL = re.compile(rb'"seal":"([^"]*)"')
NOTES = {"format", "progress", "seal"}  # what the header says beside the tensors; of before, without a seal


def save(path: Path, model: Any, optimizer: optim.Optimizer, state: RunState) -> None:
    """Write the whole state atomically; one with numbers that are not finite is refused."""
    tensors = {f"adapters.{name}": value for name, value in flat(model.trainable_parameters()).items()}
    tensors |= {f"optimizer.{name}": value for name, value in flat(optimizer.state).items()}
    tensors["random"] = mx.array(random_key(), mx.uint32)
    adapters.check_finite(tensors, str(path))
    arrays.save(
        path, tensors, {"format": "mlx", "progress": json.dumps(asdict(state)), "seal": BLANK}, finish=_write_seal
    )


def _write_seal(path: Path) -> None:
    place, _, digest = _seal(path)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(digest.encode())


def _seal(path: Path) -> tuple[int, str, str]:
    """Where the seal stands in the file, what it says, and what it must say; ValueError where there is none."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", head := file.read(8))
        header = file.read(length)
        found = SEAL.search(header)
        if found is None:
            raise ValueError("no seal")
        first, last = found.span(1)
        digest = hashlib.sha256(head + header[:first] + BLANK.encode() + header[last:])
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return len(head) + first, found[1].decode(errors="replace"), digest.hexdigest()


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
                free=folders.beside(path.parent),
            )
        )
    model.update(
        tree_unflatten([(k.removeprefix("adapters."), v) for k, v in tensors.items() if k.startswith("adapters.")])
    )
    best = path.parent / WEIGHTS
    if state.kept and not (best.exists() and files.sha256(best) == state.kept):
        state.forget_best()  # damaged, or of a validation after this state, which comes again
        print(tr("{path}: not the best of the last checkpoint; the best is chosen anew from here", path=best))
    moments = [(k.removeprefix("optimizer."), v) for k, v in tensors.items() if k.startswith("optimizer.")]
    optimizer.state = tree_unflatten(moments)
    set_random_key(numbers(tensors["random"]))
    return state


def _stored(path: Path) -> tuple[dict[str, mx.array], RunState]:
    try:
        notes = Shard.open(path).metadata or {}  # MLX would find a short file only when it reads the tensors
        if set(notes) != NOTES - {"seal"}:
            _, said, is_so = _seal(path)
            if said != is_so or set(notes) != NOTES:
                raise ValueError("another seal")
        tensors: Any = mx.load(str(path))
        return tensors, RunState(**json.loads(notes["progress"]))
    except (UserError, KeyError, TypeError, ValueError):
        raise UserError(tr("{path}: damaged; remove it to start this run anew", path=path)) from None


def prune(folder: Path, state: RunState, keep_last: int) -> None:
    """Delete the oldest numbered checkpoints beyond ``keep_last``; the best is kept apart in adapters.safetensors."""
    while len(state.saved) > keep_last:
        (folder / Path(state.saved.pop(0)["file"]).name).unlink(missing_ok=True)
