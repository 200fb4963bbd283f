"""The facts of a report: the receipts of one run, looked up by the key that the report prints beside each figure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medtune import dataset, files, origin
from medtune.errors import UserError
from medtune.evaluation import predictions
from medtune.files import Json
from medtune.metrics import History
from medtune.origin import Origin
from medtune.receipt import MANIFEST, VERBS, Receipt
from medtune.run import METRICS, PREDICTIONS, WEIGHTS, Run

STAGES = ("manifest", "training", "evaluation", "deployment")


@dataclass(frozen=True)
class Stage:
    """One stage's receipt and whether it still speaks of the files that are there."""

    name: str
    path: Path
    receipt: Receipt | None
    changed: tuple[str, ...] = ()  # files that are no longer what the receipt says

    @property
    def verb(self) -> str:
        """The make target that runs this stage."""
        return VERBS[f"{self.name}.json"]

    @property
    def state(self) -> str:
        """``measured``, ``stale`` (the files changed since) or ``missing``."""
        if self.receipt is None:
            return "missing"
        return "stale" if self.changed else "measured"


@dataclass(frozen=True)
class Facts:
    """Everything a report says, read once."""

    run: Path
    stages: dict[str, Stage]
    history: History
    predictions: tuple[Json, ...]  # every answer of the evaluation
    baseline: Facts | None = None  # another run that this one is compared with

    @property
    def place(self) -> str:
        """The run's folder as a report writes it."""
        return files.without_home(str(self.run))

    @property
    def origin(self) -> Origin | None:
        """Where this run came from, where that is noted."""
        return Run(self.run).origin

    def command(self, verb: str) -> str:
        """What one types for a stage of this run, complete, but for the raw files, whose names may be a patient's."""
        data = files.with_home(self.look("training.dataset.path") or "") or (self.origin and str(self.origin.data))
        if verb == "data" and data:
            return files.without_home(origin.of_folder(verb, Path(data), raw=False))
        return files.without_home(Run(self.run).command(verb))

    def longer(self, iters: int) -> str:
        """What one types to train another run of the same settings, but of so many steps."""
        known = self.look("training.overrides") or ()
        came = self.origin or Origin(Path("configs/demo/train.yaml"), Path("data/processed/demo"), tuple(known))
        run = Run(self.run.with_name(f"{self.run.name}_{iters}"))
        return files.without_home(run.command("train", came.with_set({"iters": str(iters)})))

    def look(self, key: str) -> Any:
        """The value at ``stage.key.sub``, first in the receipt itself, then in its results; None where not there."""
        name, *path = key.split(".")
        receipt = self.stages[name].receipt
        if receipt is None:
            return None
        own = vars(receipt)
        return files.without_home(_walk(own if path[0] in own else receipt.results, path))

    def trusted(self, key: str) -> Any:
        """``look``, but None where the stage's files have changed since: then it speaks of another model."""
        return self.look(key) if self.stages[key.split(".")[0]].state == "measured" else None


def _walk(value: Any, path: list[str]) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def gather(run: Path, baseline: Path | None = None) -> Facts:
    """Read the receipts of ``run``, and of ``baseline`` where one is named; a run without training is a UserError."""
    stages = {name: _stage(name, run / f"{name}.json") for name in STAGES[1:]}
    training = stages["training"].receipt
    trained_on = training.results.get("dataset") if training else None  # an imported adapter's is not known
    data = Path(trained_on["path"]) if trained_on else None
    stages["manifest"] = _stage("manifest", (data or run) / MANIFEST)
    history = History.read(run / METRICS)
    if training is None and not history.metrics:
        raise UserError(Run(run).unfinished())
    return Facts(
        run=run,
        stages={name: _checked(stage, run, data) for name, stage in stages.items()},
        history=history,
        predictions=tuple(predictions.read(run / PREDICTIONS)[0]),
        baseline=gather(baseline) if baseline else None,
    )


def _stage(name: str, path: Path) -> Stage:
    return Stage(name, path, Receipt.found(path))


def _checked(stage: Stage, run: Path, data: Path | None) -> Stage:
    """The stage with the names of all files that are no longer what its receipt says of them."""
    if stage.receipt is None:
        return stage
    receipt = stage.receipt
    folders = [stage.path.parent, run, *([data] if data else [])]
    raw = dataset.sources(stage.path.parent)
    found = {name: raw.get(name) or _found(name, folders) for name in receipt.inputs}
    changed = [
        dataset.mark(name) if "/" in name else name
        for name, digest in receipt.inputs.items()
        if _differs(found[name], digest)
    ]
    changed += [name for name, digest in receipt.outputs.items() if files.lost(stage.path.parent / name, digest)]
    changed += _adapters(receipt.results, run) + _deployed(receipt.results)
    return replace(stage, changed=tuple(dict.fromkeys(files.without_home(changed))))


def _found(name: str, folders: list[Path]) -> Path | None:
    """The file an input's name means: beside the receipt, in the run or in the data set; or as a path with a folder."""
    places = [folder / name for folder in folders] + ([Path(name)] if "/" in name else [])
    return next((place for place in places if place.is_file()), None)


def _differs(path: Path | None, digest: str) -> bool:
    """An input that is there and is another; one that is no file of ours (a model, a folder) is not judged here."""
    return path is not None and len(digest) == 64 and files.differs(path, digest)


def _adapters(results: Json, run: Path) -> list[str]:
    """The adapters an evaluation speaks of, where they are no longer those of the run."""
    digest = (results.get("adapters") or {}).get("hash")
    path = run / WEIGHTS
    return [path.name] if isinstance(digest, str) and path.exists() and _differs(path, digest) else []


def _deployed(results: Json) -> list[str]:
    """Files of a deployed folder that are gone or have another size."""
    folder = Path(results["folder"]) if "folder" in results else None
    if folder is None:
        return []
    sizes = {folder / item["name"]: item["bytes"] for item in results.get("files", [])}
    return [str(path) for path, size in sizes.items() if not path.exists() or path.stat().st_size != size]
