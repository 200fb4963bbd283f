"""The demo's committed assets, each read once for all tests that look at them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from medtune.demo.random_model import DEMO_MODEL as MODEL

DATA = Path(__file__).resolve().parents[1] / "data" / "raw" / "demo"


@cache
def words() -> Tokenizer:
    """The model's tokenizer."""
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@cache
def loaded() -> tuple[Any, Any]:
    """The model in float32 and its processor, by mlx-vlm."""
    import mlx.core as mx
    import mlx_vlm

    model, processor = mlx_vlm.load(str(MODEL))
    model.set_dtype(mx.float32)
    return model, processor
