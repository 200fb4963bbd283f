"""How activations are stored: the sizes of a row and its type, as numpy keeps it and as MLX computes with it."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class RowFormat:
    """Sizes of one stored row."""

    hidden: int
    dtype: str  # numpy name of the stored bits: float32, or uint16 for 16-bit floats
    mlx_dtype: str
    levels: int  # deepstack levels stored per visual token

    def bytes(self, tokens: int, visual: int) -> int:
        """Bytes of ``tokens`` tokens of which ``visual`` belong to images."""
        item = np.dtype(self.dtype).itemsize
        return tokens * (self.hidden * item + 3 * 4) + visual * (4 + self.levels * self.hidden * item)

    def to_mlx(self, bits: np.ndarray) -> mx.array:
        """Stored bits as an array of the model's dtype."""
        array = mx.array(bits)
        dtype = getattr(mx, self.mlx_dtype)
        return array if array.dtype == dtype else array.view(dtype)

    def to_bits(self, array: mx.array) -> np.ndarray:
        """The inverse of ``to_mlx``; waits for the array."""
        return np.array(array if self.dtype == "float32" else array.view(mx.uint16), copy=False)
