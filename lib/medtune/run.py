"""A run folder: the names of its files, what its receipts say, and where it came from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medtune import config, files, origin
from medtune.errors import UserError
from medtune.files import folders
from medtune.i18n import tr
from medtune.metrics import History
from medtune.origin import Origin
from medtune.receipt import DEPLOYMENT, EVALUATION, MANIFEST, TRAINING, Receipt
from medtune.schemas import DeployConfig

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
METRICS = "metrics.jsonl"
OUTPUTS = (WEIGHTS, CONFIG, METRICS)  # what a finished training leaves for the next stages
RESUME = "resume.safetensors"  # the state to go on from; gone when the training has finished
PREDICTIONS, REVIEWS = "predictions.jsonl", "reviews.jsonl"
LOGS = "training_real_*.log"
DEFAULT = Path(origin.RUN)
FOREIGN = ("*.safetensors", "*.npz", "adapter_model.*", CONFIG)  # what adapters from elsewhere are found by


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
            raise UserError(tr("no run here: {run} does not exist; run `make train` first, or name one", run=DEFAULT))
        return cls(max(begun, key=lambda file: file.stat().st_mtime).parent)

    @cached_property
    def training(self) -> Receipt:
        """The receipt of its training; a UserError that says what to type where there is none."""
        if not (self.path / TRAINING).exists():
            raise UserError(self.unfinished())
        return Receipt.read(self.path / TRAINING)

    @cached_property
    def evaluation(self) -> Receipt | None:
        """The evaluation of these very adapters; one of an earlier training says nothing of them."""
        found = Receipt.found(self.path / EVALUATION)
        return found if found and found.results["adapters"]["hash"] == files.digest(self.weights) else None

    @cached_property
    def deployment(self) -> Receipt:
        """The receipt of its deployment; a UserError where there is none."""
        if not (self.path / DEPLOYMENT).exists():
            raise UserError(
                tr("{run}: not deployed; run `{command}` first", run=self.path, command=self.command("deploy"))
            )
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
    def ended(self) -> bool:
        """Whether its metrics say that a training went to its end here, and there is nothing left to go on with."""
        return History.read(self.path / METRICS).ended and not (self.path / RESUME).exists()

    @property
    def adapters(self) -> list[Path]:
        """Files that are adapters, or say how they are attached, whoever made them."""
        found = {path for pattern in FOREIGN for path in self.path.glob(pattern)}
        return sorted(path for path in found if path.name != RESUME and not path.name.startswith("."))

    @property
    def origin(self) -> Origin | None:
        """Where it came from, as it remembers it."""
        return Origin.read(self.path)

    def command(self, verb: str, came: Origin | None = None) -> str:
        """What one types for a stage of this run; ``came``: where it is to come from, if not from where it did."""
        return origin.command(verb, self.path, came or self.origin)

    @property
    def resumes(self) -> bool:
        """Whether a training was begun here that has not come to its end."""
        return (self.path / RESUME).exists() or ((self.path / METRICS).exists() and not self.ended)

    def unfinished(self) -> str:
        """Why this is no finished run, and what to type."""
        if self.resumes:
            said = tr("{run}: its training has not finished", run=self.path)
        elif self.begun or self.adapters:
            return self.unaccounted()
        else:
            said = tr("{run}: no run there", run=self.path)
        return tr("{said}; run `{command}` first", said=said, command=self.command("train"))

    def unaccounted(self, elsewhere: str = "") -> str:
        """What lies here that no receipt speaks of, and what to type, or ``elsewhere``, what else one can do."""
        if self.ended:
            said = tr("{run}: a finished training, but its receipt {name} is gone", run=self.path, name=TRAINING)
        else:
            names = ", ".join(path.name for path in self.adapters[:3])
            said = tr("{run}: holds adapters that were not trained here ({names})", run=self.path, names=names)
        if self._base and (self.path / CONFIG).exists():
            way = origin.imported(self.path, self._base, folders.beside(self.path))
            way = tr("take the adapters into a run of their own: `{command}`", command=way)
            return "; ".join((said, way, *([elsewhere] if elsewhere else [])))
        command = origin.command("train", folders.beside(self.path), self.origin)
        return f"{said}; " + (elsewhere or tr("train into another folder: `{command}`", command=command))

    @property
    def _base(self) -> str:
        """The base model that its settings name, else its adapters; "" where neither does."""
        if self.origin and self.origin.settings:
            return str(self.origin.settings.get("base_model", ""))
        try:
            told = files.read_json(self.path / CONFIG)
        except UserError:
            return ""
        named = [told.get(key) for key in ("base_model_name_or_path", "model")] if isinstance(told, dict) else []
        return next((name for name in named if isinstance(name, str)), "")

    def remember(self, came: Origin) -> None:
        """Note where it comes from, for make and for the tools that are called bare."""
        came.write(self.path)

    def settle(self, came: Origin) -> None:
        """Its training has a receipt: it came from there, and there is nothing left to go on with."""
        self.remember(came)
        (self.path / RESUME).unlink(missing_ok=True)

    def overrides(self, settings: Path, given: Sequence[str]) -> list[str]:
        """What is set for its training: what was given now, else what it was begun with under the same settings."""
        known = self.origin
        return list(known.overrides) if known and not given and known.config == settings else list(given)

    def deployed(self, file: Path | None, overrides: Sequence[str]) -> DeployConfig:
        """How it is deployed: as ``file`` says, without one as it was deployed, else as its profile says."""
        done = None if file or overrides else Receipt.found(self.path / DEPLOYMENT)
        if done:
            return DeployConfig.model_validate(done.config)
        return config.load(DeployConfig, file or self.settings("deploy"), overrides)

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
        return self.origin.configs / f"{stage}.yaml"
