"""A finished run, as whoever deploys it reads it: its receipts and the base model they name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune import files
from medtune.errors import UserError
from medtune.evaluation.gate import sentence
from medtune.i18n import tr
from medtune.model.base import Base
from medtune.receipt import Receipt
from medtune.run import WEIGHTS


@dataclass(frozen=True)
class Run:
    """A finished run and the base model it was trained on."""

    path: Path
    training: Receipt
    evaluation: Receipt | None
    manifest: Receipt | None
    base: Base

    @classmethod
    def open(cls, path: Path) -> Run:
        """Read the receipts; a base model that is not the one of the training is refused."""
        training = Receipt.read(path / "training.json")
        base = Base.of_training(training.results)
        data = training.results.get("dataset", {}).get("path", "")
        manifest = Path(data) / "manifest.json"
        return cls(
            path,
            training,
            _evaluation(path),
            Receipt.read(manifest) if data and manifest.exists() else None,
            base,
        )

    def check_gate(self, allowed: bool) -> None:
        """Refuse a run whose evaluation failed its gate."""
        gate: dict[str, Any] = self.evaluation.results["gate"] if self.evaluation else {"passed": True}
        if not gate["passed"] and not allowed:
            raise UserError(
                tr("{path}: the evaluation failed its gate ({failures}); train further, or deploy it all the same with "
                   "--allow-failed-gate", path=self.path, failures="; ".join(map(sentence, gate["failures"])))
            )  # fmt: skip

    def system_prompt(self, wanted: str) -> str:
        """The system prompt to build in; one that was not trained with is refused."""
        trained = self.training.results.get("system_prompt", "")
        if wanted in ("", "training"):
            return trained if wanted else ""
        if wanted != trained:
            raise UserError(
                tr("system_prompt: not the one of the training ({trained!r}); write training, or train with this one",
                   trained=trained)
            )  # fmt: skip
        return wanted


def _evaluation(run: Path) -> Receipt | None:
    """The evaluation of these very adapters; one of an earlier training says nothing of them."""
    path = run / "evaluation.json"
    if not path.exists():
        return None
    found = Receipt.read(path)
    return found if found.results["adapters"]["hash"] == files.sha256(run / WEIGHTS) else None
