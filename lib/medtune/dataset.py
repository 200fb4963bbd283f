"""A prepared data set: its splits, its images and its manifest."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from medtune import files, origin
from medtune.errors import UserError, raise_all
from medtune.files import folders
from medtune.i18n import tr
from medtune.images import intact
from medtune.origin import Origin
from medtune.receipt import MANIFEST, Receipt
from medtune.records import SPLITS, Record

IMAGES = "images"  # their folder
SOURCES = "sources.jsonl"  # which file each mark of the manifest means: its name may be a patient's
INDEX = f"{IMAGES}/.index.jsonl"  # a header, then a row for each image file of the sources: data/imagestore.py


@dataclass(frozen=True)
class Dataset:
    """The folder ``prepare_data`` wrote; image names of its records are relative to ``root``."""

    root: Path
    manifest: Receipt

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Open a finished data set; a UserError where there is none or its files are not those of the manifest."""
        if not (folder / MANIFEST).exists():
            raise UserError(
                tr(
                    "{folder}: no data set there; run `{command}` first",
                    folder=folder,
                    command=origin.of_folder("data", folder),
                )
            )
        manifest = Receipt.read(folder / MANIFEST)
        problems = []
        for name, sha256 in manifest.outputs.items():
            if not (folder / name).exists():
                problems.append(tr("{name} is missing", name=name))
            elif files.sha256(folder / name) != sha256:
                problems.append(tr("{name} was changed after it was prepared", name=name))
        try:
            raise_all(problems, str(folder))
        except UserError as error:
            raise UserError(f"{error}; " + again(folder)) from None
        return cls(folder, manifest)

    @property
    def hashes(self) -> dict[str, str]:
        """Sha256 of each split's file; the same data prepared again has the same."""
        return self.manifest.outputs

    @property
    def hash(self) -> str:
        """Hash of the three splits, and through the records of every image."""
        return files.hash_of(self.hashes)

    def split(self, name: str) -> list[Record]:
        """The records of train, valid or test, in file order; a UserError when an image of theirs is gone or broken."""
        if name not in SPLITS:
            raise ValueError(f"{name}: not a split")
        records = [Record.model_validate(row) for _, row in files.read_jsonl(self.root / f"{name}.jsonl")]
        images = dict.fromkeys(image for record in records for image in record.images)
        hashes = image_hashes(self.root)
        lost = [name for name in images if not (is_stored(name) and whole(self.root / name, hashes.get(name, "")))]
        if lost:
            raise UserError(
                tr(
                    "{folder}: {count} images are missing, broken or changed ({first} ...)",
                    folder=self.root,
                    count=len(lost),
                    first=lost[0],
                )
                + f"; {again(self.root)}"
            )
        return records


def again(folder: Path) -> str:
    """That the data set is to be prepared again, and how."""
    return tr("run `{command}` again", command=origin.of_folder("data", folder))


def claim(folder: Path, came: Origin) -> None:
    """Refuse a folder whose splits were not written there by us: perhaps they are what one wants to prepare."""
    theirs = [name for split in SPLITS if (folder / (name := f"{split}.jsonl")).exists()]
    if theirs and not any((folder / name).exists() for name in (MANIFEST, origin.ORIGIN, INDEX)):
        elsewhere = origin.command("data", origin=replace(came, data=folders.beside(folder)))
        raise UserError(
            tr(
                "{folder}: holds files that were not prepared here ({names}); prepare into another folder: `{command}`",
                folder=folder,
                names=", ".join(theirs),
                command=elsewhere,
            )
        )


def mark(path: str) -> str:
    """What a receipt says in place of a raw file's path, in which a patient's name may stand."""
    return f"source-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def sources(root: Path) -> dict[str, Path]:
    """The raw files that the marks in a data set's manifest mean; empty where that is not known."""
    if not (root / SOURCES).exists():
        return {}
    return {row["mark"]: Path(row["path"]) for _, row in files.read_jsonl(root / SOURCES)}


def image_hashes(root: Path) -> dict[str, str]:
    """Sha256 of the stored images by their names, as they were written; a damaged index is a UserError."""
    rows = list(files.read_sealed(root / INDEX))
    if None in rows:
        raise UserError(tr("{path}: damaged; run `make data` again", path=root / INDEX))
    return {row["name"]: row["file"] for row in rows if row and row.get("name") and row.get("file")}


def is_stored(name: str) -> bool:
    """Whether it is the name of a stored image, relative to the data set's root, and of nothing outside."""
    folder, _, file = name.partition("/")
    return folder == IMAGES and files.plain(file)


def whole(image: Path, digest: str) -> bool:
    """Whether a stored image is there, and the one that was written; without a digest, whether it decodes."""
    return (image.is_file() and files.sha256(image) == digest) if digest else intact(image)
