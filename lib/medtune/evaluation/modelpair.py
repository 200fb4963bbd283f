"""What an evaluation compares: a finished run against the base model or another run, on the same items."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medtune import checks, files
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.evaluation import items
from medtune.evaluation.items import Item
from medtune.evaluation.predictions import Side
from medtune.i18n import tr
from medtune.model.base import Base
from medtune.receipt import Receipt
from medtune.records import DIMENSIONS
from medtune.run import WEIGHTS
from medtune.schemas import EvalConfig


@dataclass(frozen=True)
class ModelPair:
    """A run, the base model it was trained on and, for a comparison of two runs, the other one."""

    run: Path
    training: Receipt
    base: Base
    baseline: Path | None

    @classmethod
    def open(cls, run: Path, baseline: Path | None = None) -> ModelPair:
        """A UserError where the base model is no longer the one trained on, or the runs have different ones."""
        training = Receipt.read(run / "training.json")
        base = Base.of_training(training.results)
        if baseline is not None:
            other = Receipt.read(baseline / "training.json").results["base_model"]
            if other["hash"] != base.weights_hash:
                raise UserError(
                    tr(
                        "{baseline}: trained on {other}, not on {base}; compare runs of one base model",
                        baseline=baseline,
                        other=other["name"],
                        base=base.name,
                    )
                )
        return cls(run, training, base, baseline)

    @property
    def system_prompt(self) -> str:
        """The system prompt of the training."""
        return self.training.results["system_prompt"]

    @property
    def priorities(self) -> dict[str, float]:
        """The weight each dimension had in the training; all alike where an imported adapter tells none."""
        if "objective" not in self.training.config:
            return dict.fromkeys(DIMENSIONS, 1.0)
        return {dim: p["weight"] for dim, p in self.training.config["objective"]["priorities"].items()}

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Sha256 of the adapters, and of the baseline's where it has any."""
        found = {WEIGHTS: files.sha256(self.run / WEIGHTS)}
        return found if self.baseline is None else {**found, "baseline": files.sha256(self.baseline / WEIGHTS)}

    def items(self, data: Path, settings: EvalConfig) -> list[Item]:
        """The test split of ``data``, which must be what the run was trained on, and the recommended cases.

        What an imported adapter was trained on is not known: it takes any data.
        """
        dataset = Dataset.open(data)
        recorded = self.training.results.get("dataset")
        if recorded and dataset.hash != recorded["hash"]:  # else the test split may have been trained on
            raise UserError(
                tr(
                    "{data}: not the data set {run} was trained on; train again, or name that one ({path})",
                    data=data,
                    run=self.run,
                    path=recorded["path"],
                )
            )
        chosen = items.of_test(dataset, settings.max_items, settings.seed)
        chosen += items.of_bench(Path(settings.bench), self.system_prompt)
        items.check_checks(chosen)
        return chosen

    def sides(self, settings: EvalConfig) -> tuple[Side, Side]:
        """Baseline and tuned, each with the hash of all that decides its answers besides the prompt."""
        base = self.base
        shared = [base.weights_hash, base.tokenizer_hash, base.processor_hash, base.template_hash, settings.max_tokens]
        before, after = self.hashes.get("baseline"), self.hashes[WEIGHTS]
        return (
            Side("baseline", self.baseline, files.hash_of([*shared, before])),
            Side("tuned", self.run, files.hash_of([*shared, after])),
        )

    def inputs(self, data: Path, chosen: list[Item]) -> dict[str, str]:
        """What the evaluation's result depends on: changed rules of the checks make an earlier one stale."""
        judged = [[item.id, item.prompt_hash, [check.model_dump() for check in item.checks]] for item in chosen]
        return {
            "training.json": files.sha256(self.run / "training.json"),
            **self.hashes,
            "test.jsonl": files.sha256(data / "test.jsonl"),
            "items": files.hash_of(judged),
            "checks": checks.sources_hash(),
        }
