"""Whether adapters may be written into a folder: nothing that lies there and was not made by the same stage is touched.

Every adapter file carries in its header the mark of what made it, a hash of all that decides it. So a stage that was
killed knows its own half, and knows a friend's adapters for another's.
"""

from __future__ import annotations

from pathlib import Path

from medtune import files, origin
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model.base import Base
from medtune.model.tensors import Shard
from medtune.origin import Origin
from medtune.receipt import changed_keys
from medtune.run import CONFIG, RESUME, Run
from medtune.schemas import TrainConfig

MARK = "made_by"  # key of the header


def fingerprint(dataset: Dataset, base: Base, config: TrainConfig) -> str:
    """Hash of everything that decides a training's result."""
    return files.hash_of([config.model_dump(mode="json"), dataset.hash, base.weights_hash])


def mark_of(path: Path) -> str:
    """The mark of an adapter file; "" where it carries none."""
    try:
        return (Shard.open(path).metadata or {}).get(MARK, "")
    except (UserError, AttributeError):
        return ""


def check(run: Run, came: Origin, elsewhere: str) -> None:
    """Refuse a folder that holds what a training from ``came`` cannot account for; ``elsewhere``: what else to do."""
    _check_settings(run, came, elsewhere)
    if run.ended or (run.adapters and not (run.resumes and accounts(run, came.mark))):
        raise UserError(run.unaccounted(elsewhere))


def accounts(run: Run, mark: str) -> bool:
    """Whether all adapters in a folder were written there by what has this mark."""
    ours = [path for path in run.adapters if mark_of(path) == mark]
    theirs = [path for path in run.adapters if path not in ours and not (path.name == CONFIG and ours)]
    return not theirs or _is_of_an_earlier_version(run, theirs)


def _is_of_an_earlier_version(run: Run, theirs: list[Path]) -> bool:
    """Whether an unfinished training began when files carried no mark: then none of its checkpoints has one."""
    checkpoints = [path for path in theirs if path.name[0].isdigit()]
    return (run.path / RESUME).exists() and bool(checkpoints) and not any(map(mark_of, theirs))


def _check_settings(run: Run, came: Origin, elsewhere: str) -> None:
    """An unfinished training goes on with its own settings and data, or not at all."""
    began = run.origin
    if not run.resumes or began is None or began.settings is None or began.mark == came.mark:
        return
    keys = changed_keys(began.settings, came.settings)
    if not keys:
        raise UserError(
            tr(
                "{run}: holds an unfinished training on other data, or on another base model; {elsewhere}",
                run=run.path,
                elsewhere=elsewhere,
            )
        )
    raise UserError(
        tr(
            "{run}: holds an unfinished training with other settings ({keys}); it goes on with `{command}`, or "
            "{elsewhere}",
            run=run.path,
            keys=", ".join(keys),
            command=origin.command("train", run.path, began.restored(keys)),
            elsewhere=elsewhere,
        )
    )
