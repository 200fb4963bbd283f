"""The ablation: one training with and without the penalty term, from one trunk cache, compared on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from medtune import files, receipt
from medtune.config import Strict
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.evaluation import scoring, summary
from medtune.evaluation.modelpair import Contest
from medtune.evaluation.predictions import FILE, Predictions
from medtune.i18n import tr
from medtune.model.base import Base
from medtune.receipt import AlreadyDone, Receipt
from medtune.run import OUTPUTS
from medtune.schemas import EvalConfig, TrainConfig

WITHOUT, WITH = "without", "with"  # the folders of the two runs
Numbers = dict[str, Any]


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
        from medtune.training import job

        for name, settings in self.arms.items():
            run = self.folder / name
            try:
                with receipt.stage(
                    run / "training.json",
                    settings,
                    inputs=inputs,
                    seeds={"train": settings.seed},
                    replace=False,
                    redo=tr("choose another --out or remove {run}", run=run),
                ) as done:
                    print(_announcement(name), flush=True)
                    ready = job.assemble(dataset, base, settings, run, self.cache)
                    done.results = ready.run()
                    done.outputs = {file: files.sha256(run / file) for file in OUTPUTS}
            except AlreadyDone as done:
                print(done)

    def compare(self) -> Numbers:
        """The results of ablation.json: both runs' answers to the test split, paired."""
        from medtune.evaluation.answering import answer

        run, settings = self.folder / WITH, self.settings.evaluation
        contest = Contest.open(run, self.folder / WITHOUT)
        items = [item for item in contest.items(self.data, settings) if item.split == "test"]
        sides, store = contest.sides(settings), Predictions(self.folder / FILE)
        answer(contest.base, sides, items, store, settings)
        judged = summary.evaluate(scoring.judge(items, store, *sides), contest.weights, settings)
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


def _learned(run: Path) -> Numbers:
    """What the training itself measured: on the validation split, nothing is generated."""
    results = Receipt.read(run / "training.json").results
    return {
        "val_loss": results["val_loss"]["best"],
        "step": results["selected"]["step"],
        "reward_margin": results["reward_margin"],
        "gradient_share": results["gradient_share"],
        "train_seconds": results["train_seconds"],
        "trunk_seconds": results["trunk_seconds"],
    }


def table(results: Numbers) -> list[list[str]]:
    """Rows of text: head, dimensions, overall; scores 0 to 1 and their difference with its 95 % interval."""
    rows = [[tr("dimension"), tr("items"), tr("without"), tr("with"), tr("change"), tr("95 % interval"), "p"]]
    parts: Mapping[str, Numbers] = {**results["dimensions"], "overall": results["overall"]}
    for name, n in parts.items():
        p = n.get("p_holm", n["p"])
        rows.append(
            [
                tr(name),
                str(n["n"]),
                f"{n['baseline']:.3f}",
                f"{n['tuned']:.3f}",
                f"{n['delta']:+.3f}",
                f"{n['ci_low']:+.3f} … {n['ci_high']:+.3f}",
                "<0.001" if p < 0.001 else f"{p:.3f}",
            ]
        )
    return rows


def learned(results: Numbers) -> list[list[str]]:
    """Rows of text: what each run's validation says."""
    rows = [[tr("run"), tr("best validation loss"), tr("reward margin"), tr("trunk s"), tr("training s")]]
    for name, run in results["runs"].items():
        margin = "" if run["reward_margin"] is None else f"{run['reward_margin']:+.3f}"
        seconds = (f"{run['trunk_seconds']:.1f}", f"{run['train_seconds']:.1f}")
        rows.append([tr(name), f"{run['val_loss']:.4f}", margin, *seconds])
    return rows


def sentence(results: Numbers) -> str:
    """The finding in words: what the interval of the whole allows to say."""
    overall = results["overall"]
    if overall["ci_low"] > 0:
        return tr("The penalty term makes the answers better, by {delta:+.3f} on the whole.", delta=overall["delta"])
    if overall["ci_high"] < 0:
        return tr("The penalty term makes the answers worse, by {delta:+.3f} on the whole.", delta=overall["delta"])
    return tr(
        "No difference beyond chance on the whole; with these items one of about {least:.3f} would be found in four "
        "of five repetitions.",
        least=overall["detectable"],
    )


def render(results: Numbers) -> RenderableType:
    """Both tables and the finding for a terminal."""
    tables: list[RenderableType] = []
    for head, *rows in (learned(results), table(results)):
        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, name in enumerate(head):
            drawn.add_column(name, justify="right" if index else "left")
        for row in rows:
            drawn.add_row(*row)
        tables.append(drawn)
    return Group(*tables, sentence(results))


def markdown(results: Numbers) -> str:
    """The same as a page."""
    parts = [f"# {tr('What the penalty term does')}", sentence(results)]
    parts.append(
        tr(
            "The same settings, seed, data and trunk cache twice: objective.negatives {negatives} against off. Scores "
            "0 to 1 on the test split, greedy answers, items paired; p of the dimensions by Holm.",
            negatives=results["negatives"],
        )
    )
    parts += [_markdown(table(results)), _markdown(learned(results))]
    moved = results["migration"]
    parts.append(
        tr("fully right: {fixed} fixed, {regressed} regressed, {kept} kept, {still_wrong} still wrong", **moved)
    )
    return "\n\n".join(parts) + "\n"


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])
