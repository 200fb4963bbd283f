"""What an evaluation compares: a finished run against the base model or another run, on the same items."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medtune import checks, files, origin
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.evaluation import items
from medtune.evaluation.items import Item
from medtune.evaluation.predictions import Side
from medtune.files import folders
from medtune.i18n import tr
from medtune.model.base import Base
from medtune.receipt import MANIFEST, TRAINING
from medtune.records import DIMENSIONS
from medtune.run import CONFIG, WEIGHTS, Run
from medtune.schemas import EvalConfig


@dataclass(frozen=True)
class ModelPair:
    """A run, the base model it was trained on and, for a comparison of two runs, the other one."""

    run: Run
    base: Base
    baseline: Run | None

    @classmethod
    def open(cls, run: Run, baseline: Run | None = None) -> ModelPair:
        """A UserError where base model or adapters are no longer those of the training, or the bases differ."""
        for one in (run, *([baseline] if baseline else [])):
            one.as_trained(WEIGHTS, CONFIG)
        base = Base.of_training(run.training.results)
        if baseline is not None:
            other = baseline.training.results["base_model"]
            if other["hash"] != base.weights_hash:
                raise UserError(
                    tr(
                        "{baseline}: trained on {other}, not on {base}; compare runs of one base model",
                        baseline=baseline.path,
                        other=other["name"],
                        base=base.name,
                    )
                )
        return cls(run, base, baseline)

    @property
    def priorities(self) -> dict[str, float]:
        """The weight each dimension had in the training; all alike where an imported adapter tells none."""
        if "objective" not in self.run.training.config:
            return dict.fromkeys(DIMENSIONS, 1.0)
        return {dim: p["weight"] for dim, p in self.run.training.config["objective"]["priorities"].items()}

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Sha256 of the adapters, and of the baseline's where it has any."""
        found = {WEIGHTS: files.digest(self.run.weights)}
        return found if self.baseline is None else {**found, "baseline": files.digest(self.baseline.weights)}

    def items(self, data: Path, settings: EvalConfig) -> list[Item]:
        """The test split of ``data``, which must be what the run was trained on, and the recommended cases.

        What an imported adapter was trained on is not known: it takes any data.
        """
        if not (data / MANIFEST).exists():
            raise UserError(
                tr(
                    "{run}: the data set {data} is not here, and without it nothing can be tested; copy its folder "
                    "here, or prepare it again: `{command}`",
                    run=self.run.path,
                    data=data,
                    command=origin.of_folder("data", data),
                )
            )
        dataset = Dataset.open(data)
        recorded = self.run.training.results.get("dataset")
        if recorded and dataset.hash != recorded["hash"]:  # else the test split may have been trained on
            raise UserError(
                tr(
                    "{data}: not the data set {run} was trained on, or no longer as it was ({path}); bring that back, "
                    "or train on this one in another folder: `{command}`",
                    data=data,
                    run=self.run.path,
                    path=recorded["path"],
                    command=origin.command("train", folders.beside(self.run.path), self.run.origin),
                )
            )
        chosen = items.of_test(dataset, settings.max_items, settings.seed)
        if settings.bench is not None:
            chosen += items.of_bench(Path(settings.bench), self.run.system_prompt)
        items.check_checks(chosen)
        return chosen

    def sides(self, settings: EvalConfig) -> tuple[Side, Side]:
        """Baseline and tuned, each with the hash of all that decides its answers besides the prompt."""
        base = self.base
        shared = [base.weights_hash, base.tokenizer_hash, base.processor_hash, base.template_hash, settings.max_tokens]
        before, after = self.hashes.get("baseline"), self.hashes[WEIGHTS]
        return (
            Side("baseline", self.baseline.path if self.baseline else None, files.hash_of([*shared, before])),
            Side("tuned", self.run.path, files.hash_of([*shared, after])),
        )

    def inputs(self, data: Path, chosen: list[Item]) -> dict[str, str]:
        """What the evaluation's result depends on: changed rules of the checks make an earlier one stale."""
        judged = [[item.id, item.prompt_hash, [check.model_dump() for check in item.checks]] for item in chosen]
        return {
            TRAINING: files.sha256(self.run.path / TRAINING),
            **self.hashes,
            "test.jsonl": files.sha256(data / "test.jsonl"),
            "items": files.hash_of(judged),
            "checks": checks.sources_hash(),
        }
