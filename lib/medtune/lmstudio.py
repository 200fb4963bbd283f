"""LM Studio on this machine: where its home, its models and its programs are, by the app's own rules.

The order is that of the app's `findLMStudioHome` and of `lms`: a pointer file, the old cache folder, then
`~/.lmstudio`; the models' folder is `downloadsFolder` of its settings, else `models`. Nothing is created here: an
empty home would tell the app, and us, that it is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from medtune.errors import UserError
from medtune.i18n import tr

POINTER = ".lmstudio-home-pointer"
ENGINES = "extensions/backends/vendor/_amphibian"  # the Python that the app installs for its MLX engine


def home(override: str = "") -> Path | None:
    """LM Studio's home, or None where it is not installed; ``override`` is deploy.yaml's ``home``."""
    if override:
        chosen = Path(override).expanduser()
        if not chosen.is_dir():
            raise UserError(
                tr("{folder}: no such folder; correct `home` in deploy.yaml or leave it empty", folder=chosen)
            )
        return chosen.resolve()
    person = Path.home().resolve()
    pointer = person / POINTER
    pointed = _pointed(pointer) if pointer.exists() else ""
    places = [*([Path(pointed)] if pointed else []), person / ".cache" / "lm-studio", person / ".lmstudio"]
    return next((place for place in places if place.is_dir()), None)


def models_folder(override: str = "") -> Path | None:
    """The folder that holds `<publisher>/<model>/`, or None where LM Studio is not installed."""
    found = home(override)
    if found is None:
        return None
    settings = found / "settings.json"
    chosen = _settings(settings).get("downloadsFolder") if settings.exists() else None
    if not isinstance(chosen, (str, type(None))):
        raise UserError(
            tr(
                "{path}: downloadsFolder is no folder ({found!r}); choose the models folder in LM Studio again",
                path=settings,
                found=chosen,
            )
        )
    return Path(chosen).expanduser() if chosen else found / "models"


def _pointed(pointer: Path) -> str:
    try:
        return pointer.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise UserError(tr("{path}: not UTF-8; remove it and start LM Studio once", path=pointer)) from None


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what is not UTF-8
        raise UserError(tr("{path}: not JSON ({error}); start LM Studio once", path=path, error=error)) from None
    if not isinstance(found, dict):
        raise UserError(tr("{path}: not LM Studio's settings; move it away and start LM Studio once", path=path))
    return found


def engine_python(folder: Path) -> Path | None:
    """The newest interpreter of LM Studio's MLX engine under the home ``folder``, None where it has none."""
    found = folder.glob(f"{ENGINES}/app-mlx-generate-mac*@*/bin/python")

    def age(python: Path) -> tuple[int, ...]:
        return tuple(int(number) for number in re.findall(r"\d+", python.parent.parent.name.partition("@")[2]))

    return max(found, key=age, default=None)


def remembered_settings(folder: Path, publisher: str, name: str) -> Path | None:
    """The app's own settings for a model of this name, which outlive the model and can override its template."""
    path = folder / ".internal" / "user-concrete-model-default-config" / publisher / f"{name}.json"
    return path if path.exists() else None


class Lms:
    """The `lms` command of an installed LM Studio; it is often not on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "bin" / "lms"

    @property
    def installed(self) -> bool:
        """Whether the program is there."""
        return self.program.exists()

    def json(self, *words: str) -> Any:
        """Run `lms WORDS --json` and parse what it prints; a failure is a UserError with its last line."""
        said = self.run(*words, "--json")
        try:
            return json.loads(said)
        except json.JSONDecodeError:
            raise UserError(
                tr("lms {words}: no JSON in its answer ({said})", words=" ".join(words), said=said)
            ) from None

    def run(self, *words: str, timeout: float = 600) -> str:
        """Run `lms WORDS` and return what it prints."""
        try:
            done = subprocess.run([str(self.program), *words], capture_output=True, text=True, timeout=timeout)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(tr("lms {words}: {error}", words=" ".join(words), error=error)) from error
        if done.returncode:
            last = ([*done.stderr.splitlines(), *done.stdout.splitlines()] or ["?"])[-1]
            raise UserError(tr("lms {words}: {error}", words=" ".join(words), error=last))
        return done.stdout
