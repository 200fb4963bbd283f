"""Matrices of a model folder as numbers: stored forms (float or packed), rows read and written a block at a time.

Letters: E experts (1 for a plain matrix), N rows an expert has, K columns; a block is (R, K) float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import families
from medtune.model.tensors import HeaderEntry, Tensor

BLOCK = 2**23  # numbers in a block: 32 MiB as float32
CARRIERS: dict[str, tuple[Any, mx.Dtype]] = {  # safetensors' name: how numpy reads the bytes, what they are
    "F32": (np.float32, mx.float32),
    "F16": (np.float16, mx.float16),
    "BF16": (np.uint16, mx.bfloat16),
    "U32": (np.uint32, mx.uint32),
    "U8": (np.uint8, mx.uint8),
}
FLOATS = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}


@dataclass(frozen=True)
class Form:
    """How a matrix is stored: as floats of ``dtype``, or packed into ``bits`` with scales of ``dtype``."""

    dtype: str  # F32, F16 or BF16
    bits: int | None = None
    group_size: int = 0
    mode: str = "affine"

    @property
    def label(self) -> str:
        """For people: ``4bit``, ``bf16``."""
        return f"{self.bits}bit" if self.bits else {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}[self.dtype]

    @property
    def packing(self) -> dict[str, Any]:
        """The arguments of mx.quantize and of config.json's quantization."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def fits(self, columns: int) -> bool:
        """Whether rows of so many columns can be stored like this."""
        return not self.bits or columns % self.group_size == 0

    def entries(self, module: str, shape: tuple[int, ...]) -> list[HeaderEntry]:
        """The tensors a matrix of ``shape`` (..., N, K) becomes."""
        *outer, columns = shape
        if not self.bits:
            return [HeaderEntry(f"{module}.weight", self.dtype, shape)]
        groups = columns // self.group_size
        affine = self.mode == "affine"  # the other modes have one-byte scales and no biases
        made = [
            HeaderEntry(f"{module}.weight", "U32", (*outer, columns * self.bits // 32)),
            HeaderEntry(f"{module}.scales", self.dtype if affine else "U8", (*outer, groups)),
        ]
        return [*made, HeaderEntry(f"{module}.biases", self.dtype, (*outer, groups))] if affine else made

    def store(self, block: mx.array) -> tuple[list[bytes], mx.array]:
        """A block (R, K) float32 -> the bytes of its tensors, and what a reader will get back, float32."""
        rounded = block.astype(FLOATS[self.dtype])
        if not self.bits:
            return [_bytes(rounded)], rounded.astype(mx.float32)
        packed = mx.quantize(rounded, **self.packing)
        return [_bytes(part) for part in packed], _unpack(*packed, form=self)


@dataclass(frozen=True)
class Matrix:
    """One stored matrix of a model folder, read by rows."""

    module: str
    form: Form
    shape: tuple[int, ...]  # (N, K) or (E, N, K)
    parts: tuple[Tensor, ...]  # weight, or weight, scales (, biases)

    @property
    def experts(self) -> int:
        """E."""
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(part.nbytes for part in self.parts)

    def read(self, expert: int, first: int, last: int) -> mx.array:
        """Rows [first, last) of one expert, (R, K) float32, exactly what the stored form stands for."""
        start = expert * self.shape[-2]
        read = [array(part, start + first, start + last) for part in self.parts]
        return _unpack(*read, form=self.form) if self.form.bits else read[0].astype(mx.float32)

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """(expert, first row, last row) of blocks small enough to hold a few of them at once."""
        rows = max(1, BLOCK // self.shape[-1])
        for expert in range(self.experts):
            for first in range(0, self.shape[-2], rows):
                yield expert, first, min(first + rows, self.shape[-2])


def find(tensors: dict[str, Tensor], quantization: dict[str, Any] | None, module: str) -> Matrix:
    """The matrix of ``module``; ``quantization`` is config.json's entry, with its settings per module."""
    weight = tensors.get(f"{module}.weight")
    if weight is None:
        raise UserError(
            tr(
                "{module}: the base model has no such matrix; deploy onto the model the run was trained on",
                module=module,
            )
        )
    scales = tensors.get(f"{module}.scales")
    if scales is None:
        if weight.dtype not in FLOATS:
            raise UserError(
                tr(
                    "{module}: stored as {dtype}; use a base in float or MLX quantisation",
                    module=module,
                    dtype=weight.dtype,
                )
            )
        return Matrix(module, Form(weight.dtype), weight.shape, (weight,))
    packing = settings_of(quantization or {}, module)
    biases = tensors.get(f"{module}.biases")
    form = Form(
        dtype=scales.dtype if scales.dtype in FLOATS else "BF16",
        bits=packing["bits"],
        group_size=packing["group_size"],
        mode=packing.get("mode", "affine"),
    )
    shape = (*weight.shape[:-1], weight.shape[-1] * 32 // packing["bits"])
    return Matrix(module, form, shape, (weight, scales, biases) if biases else (weight, scales))


def settings_of(quantization: dict[str, Any], module: str) -> dict[str, Any]:
    """bits, group_size and mode of one module."""
    own = next((quantization[name] for name in families.listed(module) if name in quantization), None)
    return own if isinstance(own, dict) else quantization


def array(tensor: Tensor, first: int = 0, last: int | None = None) -> mx.array:
    """Rows [first, last) of a stored tensor, (R, last axis), as it is stored."""
    last = tensor.rows if last is None else last
    carrier, dtype = CARRIERS[tensor.dtype]
    flat = np.frombuffer(tensor.read(first, last), carrier).reshape(last - first, tensor.shape[-1])
    return mx.array(flat).view(dtype)


def _unpack(weight: mx.array, scales: mx.array, biases: mx.array | None = None, *, form: Form) -> mx.array:
    if form.mode != "affine":
        return mx.dequantize(weight, scales, **form.packing).astype(mx.float32)
    assert biases is not None  # affine packing always has them
    wide = scales.astype(mx.float32), biases.astype(mx.float32)  # a half-precision result would be rounded again
    return mx.dequantize(weight, *wide, **form.packing)


def _bytes(array: mx.array) -> bytes:
    """The bytes safetensors stores; numpy has no bfloat16, so it passes as 16-bit integers."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array).tobytes()
