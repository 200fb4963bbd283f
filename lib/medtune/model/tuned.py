"""One model in memory that answers as the base or as a run's adapters make it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from medtune.model import adapters
from medtune.model.base import Base


class TunedModel:
    """The base model's weights, loaded once; adapters are put on when first asked for and scaled to 0 for the base."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._model: nn.Module | None = None
        self._worn: Path | None = None
        self._removable = True  # DoRA changes the base's answers at any scale

    @contextmanager
    def wearing(self, run: Path | None) -> Iterator[nn.Module]:
        """The model with the adapters of folder ``run``, or as the base for None."""
        if self._model is None or (run != self._worn and (run is not None or not self._removable)):
            self._load(run)
        assert self._model is not None
        with adapters.scaled(self._model, 1.0 if run == self._worn else 0.0):
            yield self._model

    def _load(self, run: Path | None) -> None:
        self._model = None  # free the last one first: two do not fit
        mx.clear_cache()
        self._model = self.base.load()
        self._worn, self._removable = run, True
        if run is not None:
            self._removable = not adapters.load(self._model, run).dora
            self._model.eval()
