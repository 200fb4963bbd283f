"""The ablation: one training with and without the penalty term, from one trunk cache, compared on the test split."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medtune import files, receipt
from medtune.config import Strict
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.evaluation import scoring, summary
from medtune.evaluation.modelpair import ModelPair
from medtune.evaluation.predictions import Predictions
from medtune.files import Json, folders
from medtune.i18n import tr
from medtune.model import claim
from medtune.model.base import Base
from medtune.origin import Origin
from medtune.receipt import TRAINING, AlreadyDone
from medtune.run import OUTPUTS, PREDICTIONS, Run
from medtune.schemas import EvalConfig, TrainConfig

WITHOUT, WITH = "without", "with"  # the folders of the two runs
CONFIG = Path("train.yaml")  # each has settings of its own making: from no file


class AblationConfig(Strict):
    """The settings both runs share but for ``objective.negatives``, and those of the comparison."""

    train: TrainConfig
    evaluation: EvalConfig


@dataclass(frozen=True)
class Ablation:
    """Two runs under ``folder`` on one data set."""

    data: Path
    settings: AblationConfig
    folder: Path
    cache: Path  # of the trunk

    @property
    def arms(self) -> dict[str, TrainConfig]:
        """Settings of each run; a UserError where there is no penalty term to take away."""
        train = _cached(self.settings.train)
        if train.objective.negatives == "off":
            raise UserError(tr("objective.negatives is off: there is no penalty term to compare with; set it to auto"))
        return {WITHOUT: _without(train), WITH: train}

    def train(self) -> None:
        """Train what is not trained yet; the second run finds the trunk's activations of the first."""
        dataset, base = Dataset.open(self.data), Base.find(self.settings.train.base_model)
        inputs = {**dataset.hashes, "base_model": base.weights_hash}
        redo = tr("choose another folder: --out {free}", free=folders.beside(self.folder))
        from medtune.training import job

        for name, settings in self.arms.items():
            run, mark = self.folder / name, claim.fingerprint(dataset, base, settings)
            came = Origin(CONFIG, self.data, settings=settings.model_dump(mode="json"), mark=mark)
            try:
                with receipt.stage(
                    run / TRAINING,
                    settings,
                    inputs=inputs,
                    seeds={"train": settings.seed},
                    replace=False,
                    redo=redo,
                    check=partial(claim.check, Run(run), came, redo),
                ) as done:
                    print(_announcement(name), flush=True)
                    ready = job.assemble(dataset, base, settings, run, self.cache)
                    done.results = ready.run()
                    done.outputs = {file: files.sha256(run / file) for file in OUTPUTS}
                Run(run).settle(came)
            except AlreadyDone as done:
                print(done)

    def compare(self) -> Json:
        """The results of ablation.json: both runs' answers to the test split, paired."""
        from medtune.evaluation.answering import answer

        run, settings = self.folder / WITH, self.settings.evaluation
        pair = ModelPair.open(Run(run), Run(self.folder / WITHOUT))
        items = [item for item in pair.items(self.data, settings) if item.split == "test"]
        sides, store = pair.sides(settings), Predictions(self.folder / PREDICTIONS)
        answer(pair.base, sides, items, store, settings)
        judged = summary.evaluate(scoring.judge(items, store, *sides), pair.priorities, settings)
        kept = ("items", "dimensions", "overall", "checks", "migration")
        return {
            "negatives": self.settings.train.objective.negatives,
            "runs": {name: _learned(self.folder / name) for name in (WITHOUT, WITH)},
            **{key: judged[key] for key in kept},
        }


def _cached(settings: TrainConfig) -> TrainConfig:
    """With the trunk cache, which pays where one data set is trained on twice, unless it was decided already."""
    wanted = settings.trunk_cache == "auto" and not settings.lora.restless
    return settings.model_copy(update={"trunk_cache": "on"} if wanted else {})


def _announcement(name: str) -> str:
    return tr("training with the penalty term") if name == WITH else tr("training without the penalty term")


def _without(settings: TrainConfig) -> TrainConfig:
    objective = settings.objective.model_copy(update={"negatives": "off"})
    return settings.model_copy(update={"objective": objective})


def _learned(run: Path) -> Json:
    """What the training itself measured: on the validation split, nothing is generated."""
    results = Run(run).training.results
    return {
        "val_loss": results["val_loss"]["best"],
        "step": results["selected"]["step"],
        "reward_margin": results["reward_margin"],
        "gradient_share": results["gradient_share"],
        "train_seconds": results["train_seconds"],
        "trunk_seconds": results["trunk_seconds"],
    }
