"""MLX arrays as plain numbers and as files; each call waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr

UNWRITTEN = ("[write]", "[save_safetensors]")  # how MLX begins what it says of a file it could not write


def scalar(array: mx.array) -> float:
    """The one value of an array."""
    value: Any = array.item()
    return float(value)


def numbers(array: mx.array) -> list[float]:
    """The values of a vector."""
    values: Any = array.tolist()
    return values


def random_key() -> list[float]:
    """The two halves of MLX's random state."""
    state: Any = mx.random.state
    return numbers(state[0])


def set_random_key(key: list[float]) -> None:
    """Go on from a key of ``random_key``: the state itself cannot be assigned."""
    high, low = (int(part) for part in key)
    mx.random.seed((high << 32) | low)


def flat(tree: Any) -> dict[str, mx.array]:
    """A tree of arrays (parameters, gradients, optimizer state) by full name."""
    from mlx.utils import tree_flatten

    pairs: Any = tree_flatten(tree)
    return dict(pairs)


def save(
    path: Path,
    tensors: dict[str, mx.array],
    metadata: dict[str, str],
    finish: Callable[[Path], None] = lambda path: None,
) -> None:
    """Write a safetensors file atomically; a UserError where the disk does not take it.

    ``finish`` is called with the written file before that takes its place.
    """
    with files.atomic(path) as partial:
        try:
            mx.save_safetensors(str(partial), tensors, metadata)
            finish(partial)
        except RuntimeError as error:
            if not str(error).startswith(UNWRITTEN):
                raise
            raise UserError(
                tr("{path}: could not be written ({fault}); make room on the disk", path=path, fault=error)
            ) from None
