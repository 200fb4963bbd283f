"""A model folder put in place as one step: readers see the old version or the new one, never half of one.

Everything that is not the model lies in `.medtune/<publisher>/<name>/` under the models' folder, so that renaming
stays inside one file system and LM Studio, which looks exactly two levels deep, does not take it for a model:

    lock       held while a deploy runs; the kernel lets go of it when the process dies
    incoming/  the version being made, then, for a moment, the one taken out
    previous/  the version before the present one
    trash/     a version being deleted
    swap.json  present while folders are being exchanged: which folder is the new one
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medtune import files, lmstudio
from medtune.deployment import disk
from medtune.errors import UserError
from medtune.files import folders
from medtune.i18n import tr
from medtune.schemas import DeployConfig

WORK = ".medtune"


@dataclass(frozen=True)
class Place:
    """Where one model lives under a models' folder."""

    models: Path
    publisher: str
    name: str

    @classmethod
    def of(cls, run: Path, config: DeployConfig) -> Place:
        """Where ``config`` puts the model: among LM Studio's, or under the run where the app is not installed."""
        return cls(lmstudio.models_folder(config.home) or run / "lmstudio", config.publisher, config.name)

    @property
    def folder(self) -> Path:
        """The model's folder, as LM Studio sees it."""
        return self.models / self.publisher / self.name

    @property
    def work(self) -> Path:
        """Our own folder for this model."""
        return self.models / WORK / self.publisher / self.name

    @property
    def incoming(self) -> Path:
        """The version being made."""
        return self.work / "incoming"

    @property
    def previous(self) -> Path:
        """The version before the present one."""
        return self.work / "previous"

    @property
    def trash(self) -> Path:
        """A version being deleted."""
        return self.work / "trash"

    @property
    def swap(self) -> Path:
        """Says that an exchange is under way."""
        return self.work / "swap.json"

    @property
    def ours(self) -> Path:
        """Says which folder was put there by us; see ``is_ours``."""
        return self.work / "deployed.json"

    @property
    def is_ours(self) -> bool:
        """Whether the folder was put there by us, under this very spelling."""
        noted = files.remembered(self.ours).get("folder")
        return isinstance(noted, str) and Path(noted).parts[-2:] == (self.publisher, self.name)


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """Hold this model's lock, with what a killed deploy left behind put right.

    Refuses a second deploy at once, and a name that is there in another spelling.
    """
    _one_spelling(place)
    place.work.mkdir(parents=True, exist_ok=True)
    with open(place.work / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                tr("{folder}: another deploy is under way; wait until it has ended", folder=place.folder)
            ) from None
        recover(place)
        yield


def _one_spelling(place: Place) -> None:
    """`Small-V2` and `small-v2` are one folder to macOS, and one model to LM Studio: neither stands for the other."""
    found = [folder for publisher in _alike(place.models, place.publisher) for folder in _alike(publisher, place.name)]
    if found and place.folder not in found:
        raise UserError(
            tr(
                "{folder}: is there as {found}, which differs only in upper and lower case; write it so in "
                "deploy.yaml, or choose another name",
                folder=place.folder,
                found=f"{found[0].parent.name}/{found[0].name}",
            )
        )


def _alike(folder: Path, name: str) -> list[Path]:
    """What stands in ``folder`` under ``name``, in whatever case."""
    return [path for path in folder.iterdir() if path.name.lower() == name.lower()] if folder.is_dir() else []


def recover(place: Place) -> None:
    """Finish or undo what a killed process left: afterwards there is one complete version and no half one."""
    if place.swap.exists():
        if not place.folder.exists() and place.previous.exists():  # killed between two renames
            os.rename(place.previous, place.folder)
        new = files.remembered(place.swap).get("inode")
        if new is None or disk.inode(place.folder) == new:  # the new one is in place; where none can tell, keep both
            _settle(place)
        place.swap.unlink()
    for left in (place.incoming, place.trash):
        if left.exists():
            shutil.rmtree(left)


@contextmanager
def staging(place: Place, needed: int) -> Iterator[Path]:
    """Yield an empty folder beside the target for at most ``needed`` bytes; it is gone afterwards unless committed.

    Call under ``locked``. Refuses a target that was not deployed by us, and a disk without room.
    """
    if place.folder.exists() and not place.is_ours:
        raise UserError(
            tr(
                "{folder}: exists and was not deployed by medtune; choose another name in deploy.yaml",
                folder=place.folder,
            )
        )
    free = folders.free_bytes(place.work)
    if free < needed:
        raise UserError(
            tr(
                "{folder}: {needed} needed, {free} free; make room or undeploy an earlier version",
                folder=place.models,
                needed=files.megabytes(needed),
                free=files.megabytes(free),
            )
        )
    place.incoming.mkdir()
    try:
        yield place.incoming
    finally:
        if place.incoming.exists():
            shutil.rmtree(place.incoming)


def commit(place: Place) -> None:
    """Put the staged version in place and keep the one it replaces."""
    for path in place.incoming.iterdir():
        disk.sync(path)
    disk.sync(place.incoming)
    place.folder.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(place.ours, files.sealed({"folder": str(place.folder)}))
    files.write_json(place.swap, files.sealed({"inode": disk.inode(place.incoming)}))
    if not place.folder.exists():
        os.rename(place.incoming, place.folder)
    elif not disk.exchange(place.incoming, place.folder):  # no such call here: for a moment the target is missing
        _drop_previous(place)
        os.rename(place.folder, place.previous)
        os.rename(place.incoming, place.folder)
    _settle(place)
    place.swap.unlink()


def rollback(place: Place) -> None:
    """Exchange the present version with the previous one; doing it twice changes nothing."""
    if not (place.folder.exists() and place.previous.exists()):
        raise UserError(tr("{folder}: no previous version; nothing was changed", folder=place.folder))
    files.write_json(place.swap, files.sealed({"inode": disk.inode(place.previous)}))
    if not disk.exchange(place.previous, place.folder):
        os.rename(place.folder, place.incoming)
        os.rename(place.previous, place.folder)
    _settle(place)
    place.swap.unlink()


def take_back(place: Place) -> None:
    """``withdraw`` for one that holds no lock."""
    with locked(place):
        withdraw(place)


def withdraw(place: Place) -> None:
    """Take back a version that was put in place and then found wanting: the one before it, if any, serves again."""
    if place.previous.exists():
        rollback(place)
        _drop_previous(place)
    else:
        os.rename(place.folder, place.trash)
        shutil.rmtree(place.trash)


def undeploy(place: Place) -> None:
    """Take the model and its previous version away, if it is ours."""
    if not place.is_ours:
        raise UserError(tr("{folder}: not deployed by medtune; nothing was removed", folder=place.folder))
    if place.folder.exists():
        os.rename(place.folder, place.incoming)  # gone in one step; deleting may take longer
    shutil.rmtree(place.work)
    for folder in (place.folder.parent, place.work.parent, place.models / WORK):
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _settle(place: Place) -> None:
    """After an exchange the version taken out lies in ``incoming``: keep it as ``previous``."""
    if place.incoming.exists():
        _drop_previous(place)
        os.rename(place.incoming, place.previous)
    for folder in (place.folder.parent, place.work):
        disk.sync(folder)


def _drop_previous(place: Place) -> None:
    """Deleting takes time and may be cut short: first out of the way in one step."""
    if place.previous.exists():
        os.rename(place.previous, place.trash)
        shutil.rmtree(place.trash)
