"""The image store: every image of a dataset decoded once, kept as PNG and named by its content.

The index beside the images remembers which file became which, so that a second run decodes nothing that is unchanged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import get_ident
from urllib.parse import unquote, urlsplit

from PIL import Image

from medtune import files
from medtune.data.rejections import Rejected
from medtune.dataset import IMAGES, INDEX, is_stored, whole
from medtune.images import ImageError, bytes_of, intact, pixel_hash, upright_rgb

UNLISTED = ".unlisted"  # names of what was stored since the index was written; the next run lists or removes it
THREADS = min(os.cpu_count() or 1, 8)  # a photo of 12 megapixels takes some 100 MB while it is prepared


@dataclass(frozen=True)
class Picture:
    """One image as a row names it: the file found for it, or None where ``reference`` is a ``data:`` address."""

    reference: str
    path: Path | None

    @property
    def key(self) -> str:
        """What tells it from other pictures."""
        return str(self.path) if self.path else hashlib.sha256(self.reference.encode()).hexdigest()


@dataclass(frozen=True)
class StoredImage:
    """What became of one picture: its name in the dataset and pixel hash, or the reason why there is none."""

    path: str  # of the source file, "" for one that came inside a row
    state: tuple[int, int] | None  # size, modification time in ns; None: no such file
    name: str = ""  # relative to the dataset's root
    sha256: str = ""  # over width, height and RGB bytes
    file: str = ""  # sha256 of the stored file
    reason: str = ""
    detail: str = ""


@dataclass
class ImageStore:
    """The ``images`` folder of the dataset at ``root``."""

    root: Path
    max_edge: int
    known: dict[str, StoredImage] = field(default_factory=dict)  # by source path, valid while its state is the same
    used: dict[str, StoredImage] = field(default_factory=dict)  # by key, in this run
    written: set[str] = field(default_factory=set)  # names of what an earlier run put here

    def __post_init__(self) -> None:
        max_edge, listed = _read_index(self.root)
        unlisted = self.root / IMAGES / UNLISTED
        written = {stored.name for stored in listed}
        written |= set(unlisted.read_text(encoding="utf-8", errors="replace").split() if unlisted.exists() else [])
        self.written = {name for name in written if is_stored(name)}
        self.known = {stored.path: stored for stored in listed if stored.path and max_edge == self.max_edge}
        (self.root / IMAGES).mkdir(parents=True, exist_ok=True)

    def add(self, pictures: Iterable[Picture]) -> None:
        """Store these pictures, several at once."""
        new = {picture.key: picture for picture in pictures if picture.key not in self.used}
        with ThreadPoolExecutor(THREADS) as threads:  # Pillow decodes and encodes outside the interpreter lock
            self.used.update(zip(new, threads.map(self._store, new.values()), strict=True))

    def get(self, picture: Picture) -> StoredImage:
        """What became of an added picture; raises ``Rejected`` where it cannot be used."""
        stored = self.used[picture.key]
        if stored.reason:
            raise Rejected(stored.reason, stored.detail)
        return stored

    def close(self, names: Container[str]) -> None:
        """Write the index and remove every image of this or an earlier run that is not among ``names``.

        No record shows it any more. What else is in the folder may be the person's and stays.
        """
        rows = list(self.used.values())
        header = json.dumps(files.sealed({"max_edge": self.max_edge}))
        for name in {*self.written, *(stored.name for stored in rows)} - {""}:
            if name not in names:
                (self.root / name).unlink(missing_ok=True)
        files.write_jsonl(self.root / INDEX, [header, *(json.dumps(files.sealed(asdict(row))) for row in rows)])
        (self.root / IMAGES / UNLISTED).unlink(missing_ok=True)

    def _store(self, picture: Picture) -> StoredImage:
        path, state = str(picture.path or ""), _state(picture.path)
        known = self.known.get(path)
        if known and known.state == state and (known.reason or self._holds(known)):
            return known
        try:
            image = upright_rgb(_bytes_of(picture), self.max_edge)
        except Rejected as fault:
            return StoredImage(path, state, reason=fault.reason, detail=fault.detail)
        except ImageError as error:
            return StoredImage(path, state, reason="image_broken", detail=str(error))
        digest = pixel_hash(image)
        name = f"{IMAGES}/{digest[:16]}.png"
        self._write(image, name)
        return StoredImage(path, state, name, digest, files.sha256(self.root / name))

    def _holds(self, stored: StoredImage) -> bool:
        return bool(stored.file) and whole(self.root / stored.name, stored.file)

    def _write(self, image: Image.Image, name: str) -> None:
        path = self.root / name
        if intact(path):
            return
        encoded = io.BytesIO()
        image.save(encoded, "PNG", compress_level=1)  # level 6 takes three times as long for a tenth less
        partial = path.with_name(f".{get_ident()}-{path.name}")  # two threads may hold the same content
        with open(self.root / IMAGES / UNLISTED, "a", encoding="utf-8") as unlisted:
            unlisted.write(f"{IMAGES}/{partial.name}\n{name}\n")
        partial.write_bytes(encoded.getvalue())
        partial.replace(path)


def locate(reference: str, folders: Sequence[Path]) -> Picture:
    """The picture a reference means, looked for in each folder and its ``images``.

    A file that is nowhere is a picture too: storing it says that it is missing. Raises ``Rejected`` for an address
    on the web, since nothing is downloaded.
    """
    scheme = reference[:8].lower()
    if scheme.startswith(("http://", "https://")):
        raise Rejected("image_url", reference)
    if scheme.startswith("data:"):
        return Picture(reference, None)
    try:
        name = unquote(urlsplit(reference).path) if scheme.startswith("file:") else reference
    except ValueError:
        raise Rejected("image_missing", reference) from None
    inside = Path(os.path.expanduser(name))  # that of pathlib raises where there is no such person
    places = [place for folder in folders for place in (folder / inside, folder / IMAGES / inside)]
    return Picture(reference, next((place for place in places if _state(place)), places[0]))


def state_hash(root: Path, max_edge: int) -> str:
    """Hash of which image files the dataset at ``root`` was made from and of their present size and time."""
    index_edge, listed = _read_index(root)
    rows = [[stored.path, _state(Path(stored.path)), stored.name] for stored in listed if index_edge == max_edge]
    complete = all(intact(root / name) for name in dict.fromkeys(name for _, _, name in rows if name))
    return files.hash_of([rows, complete])


def _read_index(root: Path) -> tuple[int, list[StoredImage]]:
    """The size limit of the images the index lists, and the images; what is damaged in it is not listed."""
    header, *rows = list(files.read_sealed(root / INDEX)) or [None]
    listed = [_listed(row) for row in rows if row is not None]
    return (header or {}).get("max_edge", 0), [stored for stored in listed if stored is not None]


def _listed(row: files.Json) -> StoredImage | None:
    try:
        return StoredImage(**{**row, "state": tuple(row["state"]) if row["state"] else None})
    except (KeyError, TypeError):
        return None


def _state(path: Path | None) -> tuple[int, int] | None:
    """Size and time of a file; None where there is none, or where the name cannot be one."""
    try:
        found = path.stat() if path and path.is_file() else None
    except (OSError, ValueError):  # too long a name: base64 without its data: prefix; a NUL in it
        return None
    return (found.st_size, found.st_mtime_ns) if found else None


def _bytes_of(picture: Picture) -> bytes:
    if picture.path is None:
        return _decode_address(picture.reference)
    try:
        return bytes_of(picture.path)
    except (OSError, ValueError):  # ValueError: a NUL in its name
        raise Rejected("image_missing", picture.reference) from None


def _decode_address(address: str) -> bytes:
    """The bytes of ``data:image/png;base64,...``."""
    head, comma, body = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise Rejected("image_broken", "a data: address without base64 content")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise Rejected("image_broken", f"base64: {error}") from None
