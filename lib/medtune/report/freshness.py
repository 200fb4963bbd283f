"""Does a receipt still speak of the files that are there? Its hashes against theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune import files
from medtune.run import WEIGHTS

if TYPE_CHECKING:
    from medtune.report.facts import Stage


def checked(stage: Stage, run: Path, data: Path | None) -> Stage:
    """The stage with the names of all files that differ from what its receipt says of them."""
    if stage.receipt is None:
        return stage
    receipt = stage.receipt
    folders = [stage.path.parent, run, *([data] if data else [])]
    changed = [name for name, digest in receipt.inputs.items() if _differs(_found(name, folders), digest)]
    changed += [name for name, digest in receipt.outputs.items() if files.lost(stage.path.parent / name, digest)]
    changed += _adapters(receipt.results, run) + _deployed(receipt.results)
    return replace(stage, changed=tuple(dict.fromkeys(changed)))


def _found(name: str, folders: list[Path]) -> Path | None:
    """The file an input's name means: beside the receipt, in the run or in the data set; or as a path with a folder."""
    places = [folder / name for folder in folders] + ([Path(name)] if "/" in name else [])
    return next((place for place in places if place.is_file()), None)


def _differs(path: Path | None, digest: str) -> bool:
    """An input that is there and is another; one that is no file of ours (a model, a folder) is not judged here."""
    return path is not None and len(digest) == 64 and files.differs(path, digest)


def _adapters(results: dict[str, Any], run: Path) -> list[str]:
    """The adapters an evaluation speaks of, where they are no longer those of the run."""
    digest = (results.get("adapters") or {}).get("hash")
    path = run / WEIGHTS
    return [path.name] if isinstance(digest, str) and path.exists() and _differs(path, digest) else []


def _deployed(results: dict[str, Any]) -> list[str]:
    """Files of a deployed folder that are gone or have another size."""
    folder = Path(results["folder"]) if "folder" in results else None
    if folder is None:
        return []
    sizes = {folder / item["name"]: item["bytes"] for item in results.get("files", [])}
    return [str(path) for path, size in sizes.items() if not path.exists() or path.stat().st_size != size]
