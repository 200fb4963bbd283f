"""The receipt: what a stage did, written last, so that its existence means the stage finished.

It carries a checksum of itself: what is read from a receipt is what a stage wrote there.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from medtune import files, origin
from medtune.config import Strict
from medtune.errors import UserError
from medtune.files import folders
from medtune.i18n import tr

MANIFEST, TRAINING, EVALUATION, DEPLOYMENT = "manifest.json", "training.json", "evaluation.json", "deployment.json"
VERBS = {MANIFEST: "data", TRAINING: "train", EVALUATION: "test-model", DEPLOYMENT: "deploy"}  # of make
PACKAGES = ("medtune", "mlx", "mlx-lm", "mlx-vlm", "transformers", "tokenizers", "numpy", "pillow")


@dataclass
class Receipt:
    """The facts of one finished stage, as they stand in its JSON file."""

    stage: str
    config: dict[str, Any]
    overrides: list[str]
    inputs: dict[str, str]  # file name: sha256
    seeds: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    commit: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the result: stage, settings and inputs; not when or where it ran."""
        return files.hash_of(files.without_home([self.stage, self.config, self.inputs]))

    @classmethod
    def read(cls, path: Path) -> Receipt:
        """Read a receipt; a missing or damaged one is a UserError that says what to run."""
        command = origin.of_folder(VERBS.get(path.name, "all"), path.parent)
        if not path.exists():
            raise UserError(tr("{path}: no such receipt; run `{command}` first", path=path, command=command))
        found = files.unsealed(path.read_bytes())
        if found is None:
            raise Damaged(tr("{path}: damaged; bring it back, or run `{command}` again", path=path, command=command))
        found = files.with_home(found)  # an output in the home is named with its sign
        if not _is_receipt(found):
            raise Damaged(
                tr(
                    "{path}: not a receipt of medtune; move it away and run `{command}` again",
                    path=path,
                    command=command,
                )
            )
        return cls(**found)

    @classmethod
    def found(cls, path: Path) -> Receipt | None:
        """The receipt at ``path``, None where there is none."""
        return cls.read(path) if path.exists() else None

    def write(self, path: Path) -> None:
        """Write it atomically, with its checksum."""
        files.write_json(path, files.sealed(files.without_home(vars(self))))


class Damaged(UserError):
    """What stands where a receipt should be is none, or not as it was written."""


def _is_receipt(found: files.Json) -> bool:
    """Whether a receipt's fields are there and hold what they should; outputs are named without ways out."""
    kinds = {"stage": str, "config": dict, "overrides": list, "inputs": dict, "outputs": dict, "results": dict}
    if not {"stage", "config", "overrides", "inputs"} <= set(found) <= set(Receipt.__dataclass_fields__):
        return False
    if not all(isinstance(found[name], kind) for name, kind in kinds.items() if name in found):
        return False
    outputs = found.get("outputs", {})
    hashes = [*found["inputs"].values(), *outputs.values()]
    return all(isinstance(value, str) for value in hashes) and all(
        files.plain(name) or Path(name).is_absolute() for name in outputs
    )


class AlreadyDone(Exception):
    """The stage finished before with the same settings and inputs; printed by ``cli``, exit code 0."""


@contextmanager
def stage(
    path: Path,
    config: Strict,
    *,
    inputs: dict[str, str],
    overrides: list[str] | None = None,
    seeds: dict[str, int] | None = None,
    replace: bool = True,
    redo: str = "",
    undo: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Receipt]:
    """Run a stage whose receipt is ``path`` (its stem names the stage) and write the receipt when it succeeded.

    ``inputs`` maps file names to sha256. A finished run of the same settings and inputs raises AlreadyDone, for which
    nothing is written. With ``replace=False`` a finished run of others is a UserError, ``redo`` saying how to go on;
    so is one whose receipt is damaged. The folder is held meanwhile: a second stage in it is a UserError. ``check``
    raises where the folder must not be written to; before it, nothing is. ``undo`` is called where all was done and the
    receipt cannot be written.
    """
    receipt = Receipt(
        stage=path.stem,
        config=config.model_dump(mode="json"),
        overrides=list(overrides or []),
        inputs=inputs,
        seeds=seeds or {},
    )
    with folders.held(path.parent):
        _compare(path, receipt, replace, redo)
        check()
        folders.own(path.parent)
        path.unlink(missing_ok=True)  # from here on the stage is unfinished
        started = time.time()
        receipt.started = _moment(started)
        receipt.commit, receipt.versions, receipt.machine = commit(), versions(), machine()
        yield receipt
        receipt.finished = _moment(time.time())
        receipt.seconds = round(time.time() - started, 3)
        try:
            receipt.write(path)
        except BaseException:
            undo()
            raise


def _compare(path: Path, receipt: Receipt, replace: bool, redo: str) -> None:
    if not path.exists():
        return
    try:
        earlier = Receipt.read(path)
    except Damaged:
        if not replace:
            raise UserError(tr("{path}: damaged; what it speaks of stays; {redo}", path=path, redo=redo)) from None
        print(tr("{path}: damaged; made anew", path=path), flush=True)
        return
    lost = [name for name, digest in earlier.outputs.items() if files.lost(path.parent / name, digest)]
    if not lost and earlier.fingerprint == receipt.fingerprint:
        with suppress(OSError):  # in a folder one may only read, make asks again: that is all
            os.utime(path)  # newer than its inputs again, for make
        raise AlreadyDone(tr("{path}: already done with these settings and inputs", path=path))
    if not replace:
        raise UserError(f"{path.parent}: {_difference(earlier, receipt, lost)}; {redo}")


def _difference(earlier: Receipt, now: Receipt, lost: list[str]) -> str:
    if earlier.fingerprint == now.fingerprint:
        return tr("holds a finished run whose files are gone or changed ({names})", names=", ".join(lost))
    if earlier.inputs != now.inputs:
        changed = sorted(set(earlier.inputs.items()) ^ set(now.inputs.items()))
        return tr(
            "holds a finished run on other inputs ({names})", names=", ".join(dict.fromkeys(k for k, _ in changed))
        )
    keys = ", ".join(changed_keys(earlier.config, now.config))
    return tr("holds a finished run with other settings ({names})", names=keys)


def changed_keys(a: Any, b: Any, prefix: str = "") -> list[str]:
    """The dotted names of what differs between two settings."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        return [name for key in keys for name in changed_keys(a.get(key), b.get(key), f"{prefix}.{key}".strip("."))]
    return [] if a == b else [prefix]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def commit() -> str:
    """The checkout's commit, ``-dirty`` when tracked files differ from it, ``unknown`` outside git."""
    here = Path(__file__).parent
    try:
        sha = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return sha.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """What ran this: system, processor, cores, memory; nothing that names the person."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": platform.system(),
        "release": platform.release(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
    }


def _processor() -> str:
    if platform.system() == "Darwin":
        said = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return said.stdout.strip() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
