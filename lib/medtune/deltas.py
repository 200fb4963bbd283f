"""What an adapter does to each matrix: W becomes W + scale * B A, with DoRA scaled to learned row norms.

mlx keeps lora_a and lora_b in three shapes: (K, r) and (r, N) on a plain matrix (N, K), (E, r, K) and (E, N, r) on
experts, (N, r) and (r, K) on an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from medtune.adapters import WEIGHTS, AdapterConfig
from medtune.errors import raise_all
from medtune.i18n import tr
from medtune.matrices import Matrix


@dataclass(frozen=True)
class Delta:
    """The adapter of one module."""

    module: str
    a: mx.array
    b: mx.array
    scale: float
    magnitude: mx.array | None = None  # DoRA: the learned norm of each row, (N,)

    @property
    def is_embedding(self) -> bool:
        """Whether the module is a token embedding, whose factors stand the other way round."""
        return self.module.endswith("embed_tokens")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix this adapter belongs to."""
        if self.a.ndim == 3:
            return (self.a.shape[0], self.b.shape[1], self.a.shape[2])
        if self.is_embedding:
            return (self.a.shape[0], self.b.shape[1])
        return (self.b.shape[1], self.a.shape[0])

    def apply(self, block: mx.array, expert: int, first: int, last: int) -> mx.array:
        """Rows [first, last) of the base matrix (R, K) -> the rows the adapted layer computes with, float32."""
        if self.a.ndim == 3:
            low_rank = self.b[expert, first:last] @ self.a[expert]
        elif self.is_embedding:
            low_rank = self.a[first:last] @ self.b
        else:
            low_rank = self.b[:, first:last].T @ self.a.T
        rows = block + self.scale * low_rank
        if self.magnitude is None:
            return rows
        return (self.magnitude[first:last] / mx.linalg.norm(rows, axis=1))[:, None] * rows  # Liu et al. 2024

    def fits(self, matrix: Matrix) -> bool:
        """Whether the shapes agree."""
        return self.shape == matrix.shape


def read(folder: Path, weights: str = WEIGHTS) -> list[Delta]:
    """The adapters of a portable folder, one for each adapted module; a half or a stray tensor is refused."""
    config = AdapterConfig.read(folder)
    stored = {name: value.astype(mx.float32) for name, value in _load(folder / weights).items()}
    modules = sorted({name.rpartition(".")[0] for name in stored})
    leaves = {"lora_a", "lora_b", "m"} if config.dora else {"lora_a", "lora_b"}
    problems = [
        tr("{module}: found {found}, expected {expected}", module=module, found=sorted(found), expected=sorted(leaves))
        for module in modules
        if (found := {name.rpartition(".")[2] for name in stored if name.rpartition(".")[0] == module}) != leaves
    ]
    raise_all(problems, str(folder / weights))
    return [
        Delta(module, stored[f"{module}.lora_a"], stored[f"{module}.lora_b"], config.scale, stored.get(f"{module}.m"))
        for module in modules
    ]


def _load(path: Path) -> dict[str, mx.array]:
    stored = mx.load(str(path))
    assert isinstance(stored, dict)  # a safetensors file without metadata asked for
    return stored
