"""What an adapter does to each matrix: W becomes W + scale * B A, with DoRA scaled to learned row norms.

mlx keeps lora_a and lora_b in three shapes: (K, r) and (r, N) on a plain matrix (N, K), (E, r, K) and (E, N, r) on
experts, (N, r) and (r, K) on an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from medtune.deployment.matrices import Matrix
from medtune.errors import raise_all
from medtune.i18n import tr
from medtune.model.adapters import AdapterConfig, check_finite, read_tensors
from medtune.run import WEIGHTS


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
    def rank(self) -> int:
        """r."""
        return self.a.shape[1]

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

    @property
    def whole(self) -> bool:
        """Whether its factors are matrices, or one for each expert, that can be multiplied."""
        if self.a.ndim == 3:
            fit = self.b.ndim == 3 and (self.a.shape[0], self.a.shape[1]) == (self.b.shape[0], self.b.shape[2])
        else:
            fit = self.a.ndim == self.b.ndim == 2 and self.a.shape[1] == self.b.shape[0]
        return fit and (self.magnitude is None or self.magnitude.shape == self.shape[:1])

    def fits(self, matrix: Matrix) -> bool:
        """Whether the shapes agree."""
        return self.shape == matrix.shape


def read(folder: Path, weights: str = WEIGHTS) -> list[Delta]:
    """The adapters of a portable folder, one for each adapted module."""
    config = AdapterConfig.read(folder)
    return paired(read_tensors(folder / weights), config.scale, config.dora, str(folder / weights))


def paired(stored: dict[str, mx.array], scale: float, dora: bool, where: str) -> list[Delta]:
    """Tensors by full name -> deltas, by module; a half, a stray, an odd-shaped or a not finite one is refused."""
    check_finite(stored, where)
    tensors = {name: value.astype(mx.float32) for name, value in stored.items()}
    leaves = {"lora_a", "lora_b", "m"} if dora else {"lora_a", "lora_b"}
    found: dict[str, set[str]] = {}
    for name in tensors:
        module, _, leaf = name.rpartition(".")
        found.setdefault(module, set()).add(leaf)
    problems = [
        tr("{module}: found {found}, expected {expected}", module=module, found=sorted(has), expected=sorted(leaves))
        for module, has in sorted(found.items())
        if has != leaves
    ]
    raise_all(problems, where)
    adapted = [
        Delta(module, tensors[f"{module}.lora_a"], tensors[f"{module}.lora_b"], scale, tensors.get(f"{module}.m"))
        for module in sorted(found)
    ]
    raise_all(
        [tr("{module}: its factors do not fit each other", module=one.module) for one in adapted if not one.whole],
        where,
    )
    return adapted
