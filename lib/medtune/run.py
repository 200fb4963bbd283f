"""A run folder: the names of its files, what its receipts say, and where it came from."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.receipt import DEPLOYMENT, EVALUATION, MANIFEST, TRAINING, Receipt

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
METRICS = "metrics.jsonl"
OUTPUTS = (WEIGHTS, CONFIG, METRICS)  # what a finished training leaves for the next stages
RESUME = "resume.safetensors"  # the state to go on from; gone when the training has finished
PREDICTIONS, REVIEWS = "predictions.jsonl", "reviews.jsonl"
ORIGIN = ".origin"
LOGS = "training_real_*.log"
DEFAULT = Path("adapters_v2")


class Origin(NamedTuple):
    """The folders a run came from: of its settings and of its data."""

    configs: str
    data: str


@dataclass(frozen=True)
class Run:
    """The folder of one run; receipts are read when they are asked for."""

    path: Path

    @classmethod
    def chosen(cls, path: Path | None) -> Run:
        """The run in ``path``; without one the default run, else the newest in the working folder."""
        if path is not None or DEFAULT.is_dir():
            return cls(Path(files.with_home(str(path))) if path else DEFAULT)  # ~ as a report writes it, in quotes too
        begun = [file for name in (TRAINING, METRICS) for file in Path().glob(f"*/{name}")]
        if not begun:
            raise UserError(tr("no run here: {run} does not exist; run `make train` first, or name a run", run=DEFAULT))
        return cls(max(begun, key=lambda file: file.stat().st_mtime).parent)

    @cached_property
    def training(self) -> Receipt:
        """The receipt of its training; a UserError where it has not finished."""
        return Receipt.read(self.path / TRAINING)

    @cached_property
    def evaluation(self) -> Receipt | None:
        """The evaluation of these very adapters; one of an earlier training says nothing of them."""
        found = Receipt.found(self.path / EVALUATION)
        return found if found and found.results["adapters"]["hash"] == files.digest(self.weights) else None

    @cached_property
    def deployment(self) -> Receipt:
        """The receipt of its deployment; a UserError where there is none."""
        return Receipt.read(self.path / DEPLOYMENT)

    @cached_property
    def manifest(self) -> Receipt | None:
        """The manifest of the data set it was trained on; None where that is gone, or not known (an import)."""
        return Receipt.found(self.data / MANIFEST) if self.data else None

    @property
    def weights(self) -> Path:
        """Its adapters."""
        return self.path / WEIGHTS

    def as_trained(self, *names: str) -> None:
        """Raise a UserError where one of these files is not what its training, or import, left.

        What the receipt does not speak of is taken as it is: a run under way, a receipt of before.
        """
        receipt = Receipt.found(self.path / TRAINING)
        if receipt is None:
            return
        numbered = {row["file"]: row.get("sha256") for row in receipt.results.get("checkpoints", [])}
        known = {name: digest for name, digest in {**numbered, **receipt.outputs}.items() if digest}
        for path in (self.path / name for name in names if name in known):
            if path.exists() and files.digest(path) != known[path.name]:
                raise UserError(
                    tr(
                        "{path}: changed since the training; bring it back, or train or import again into another "
                        "folder",
                        path=path,
                    )
                )

    @property
    def data(self) -> Path | None:
        """The data set it was trained on; None where that is not known (an imported adapter)."""
        dataset = self.training.results.get("dataset")
        return Path(dataset["path"]) if dataset else None

    @property
    def system_prompt(self) -> str:
        """The system prompt of the training."""
        return self.training.results.get("system_prompt", "")

    @property
    def max_image_edge(self) -> int:
        """Pixels to which its training shrank images; without bound where the data set is gone."""
        return self.manifest.config["max_image_edge"] if self.manifest else sys.maxsize

    @property
    def begun(self) -> bool:
        """Whether a training was begun here."""
        return any((self.path / name).exists() for name in (TRAINING, METRICS))

    @property
    def origin(self) -> Origin | None:
        """Where it came from, as ``remember`` noted it."""
        noted = self.path / ORIGIN
        words = noted.read_text(encoding="utf-8").split() if noted.exists() else []
        return Origin(*words) if len(words) == 2 else None

    def remember(self, configs: Path, data: Path) -> None:
        """Note where it comes from, for make and for the tools that are called bare."""
        files.write_text(self.path / ORIGIN, f"{configs} {data}\n")

    def settings(self, stage: str) -> Path:
        """The settings of another stage (eval, deploy) in the profile it came from; a UserError where none is noted."""
        if self.origin is None:
            raise UserError(
                tr(
                    "{run}: does not say which settings it came from; name them: --config configs/PROFILE/{stage}.yaml",
                    run=self.path,
                    stage=stage,
                )
            )
        return Path(self.origin.configs) / f"{stage}.yaml"
