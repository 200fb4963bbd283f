"""An environment with the library versions LM Studio's engine pins; made on request, since it needs the network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr

REQUIREMENTS = Path(__file__).with_name("lmstudio_stack.txt")
STAMP = ".requirements"  # their hash: written last, so an environment half made does not count


def folder() -> Path:
    """Beside the environment this runs in: `.venv-lmstudio`."""
    return Path(sys.prefix).parent / ".venv-lmstudio"


def interpreter() -> Path | None:
    """Its Python, None where the environment is not made or made from other versions."""
    python = folder() / "bin" / "python"
    stamp = folder() / STAMP
    return python if stamp.exists() and stamp.read_text() == files.sha256(REQUIREMENTS) else None


def make() -> Path:
    """Its Python, made first where it is not there."""
    found = interpreter()
    if found is not None:
        return found
    print(tr("making {folder} with LM Studio's versions ...", folder=folder()), flush=True)
    python = folder() / "bin" / "python"
    wanted = ["--no-deps", "--requirement", str(REQUIREMENTS)]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv:
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder())])
        _run([uv, "pip", "install", "--quiet", "--python", str(python), *wanted])
    else:
        _run([sys.executable, "-m", "venv", "--clear", str(folder())])
        _run([str(python), "-m", "pip", "install", "--quiet", *wanted])
    files.write_text(folder() / STAMP, files.sha256(REQUIREMENTS))
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        raise UserError(tr("LM Studio's versions cannot be installed ({error}); is the network there?", error=last))
