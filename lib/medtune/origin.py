"""Where a folder came from, and what one types to go on with it.

A run remembers its settings, its data and what was set for it; a data set its settings, sources and what was set.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medtune import files
from medtune.files import Json

ORIGIN = ".origin"  # first line, for make: folder of the settings, folder of the data; second: all of it as JSON
RUN, PROFILE = "adapters_v2", "demo"  # what make takes where nothing is said
PLAIN = re.compile(r"[\w./+@,-]+")  # what make and every shell take as it stands
SETTABLE = re.compile(r"[^\s'$]+")  # what make can hand on as one of the settings in SET
STAGES = {  # verb of make: its tool, and the name of its settings
    "data": ("prepare_data", "data.yaml"),
    "train": ("train_final", "train.yaml"),
    "test-model": ("test_v2_model", "eval.yaml"),
    "chat": ("test_v2_model", "eval.yaml"),
    "deploy": ("deploy_to_lmstudio", "deploy.yaml"),
    "prove": ("deploy_to_lmstudio", "deploy.yaml"),
    "monitor": ("monitor_training", ""),
    "report": ("make_report", ""),
}
FLAGS = {"chat": ("--cli",), "prove": ("--prove",)}
MADE = ("data", "train")  # what a folder's origin is the origin of; the other stages have settings of their own


@dataclass(frozen=True)
class Origin:
    """What a run, or a data set, was made from."""

    config: Path  # train.yaml of a run, data.yaml of a data set
    data: Path
    overrides: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()  # of a data set: those named before the config's
    settings: Json | None = None  # of a run, as they were resolved
    mark: str = ""  # of a run: hash of everything that decides its result

    @property
    def configs(self) -> Path:
        """The folder of its settings."""
        return self.config.parent

    @classmethod
    def read(cls, folder: Path) -> Origin | None:
        """What ``folder`` remembers; None where it does not, or where that is damaged: it only ever helps."""
        noted = folder / ORIGIN
        try:
            lines = noted.read_text(encoding="utf-8").splitlines()
            if len(lines) == 1:  # of an earlier version, which knew no more
                configs, data = lines[0].split()
                return cls(Path(configs) / "train.yaml", Path(data))
            told: Json = json.loads(lines[1])
            paths = {"config": Path(told.pop("config")), "data": Path(told.pop("data"))}
            lists = {name: tuple(map(str, told.pop(name))) for name in ("overrides", "sources")}
            return cls(**paths, **lists, **told)
        except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError):
            return None

    def write(self, folder: Path) -> None:
        """Remember it in ``folder``; where that says so already, nothing is written."""
        if Origin.read(folder) != self:
            told = vars(self) | {"config": str(self.config), "data": str(self.data)}
            text = f"{self.configs} {self.data}\n{json.dumps(told, ensure_ascii=False)}\n"
            files.write_text(folder / ORIGIN, text)

    def restored(self, keys: Iterable[str]) -> Origin:
        """The same with ``keys`` set to what they were, whatever the file of the settings says of them by now."""
        return self.with_set({key: json.dumps(_at(self.settings, key), separators=(",", ":")) for key in keys})

    def with_set(self, values: Mapping[str, str]) -> Origin:
        """The same with these set as well."""
        kept = [text for text in self.overrides if text.partition("=")[0] not in values]
        return replace(self, overrides=(*kept, *(f"{key}={text}" for key, text in values.items())))

    @property
    def without_sources(self) -> Origin:
        """The same without the names of raw files."""
        kept = tuple(text for text in self.overrides if not text.startswith("sources"))
        return replace(self, sources=(), overrides=kept)

    def is_for_make(self, settings: str) -> bool:
        """Whether make takes the same file of settings, and can hand on what was set and named."""
        plain = [SETTABLE.fullmatch(text) for text in self.overrides] + [PLAIN.fullmatch(text) for text in self.sources]
        return self.config.name == settings and all(plain)

    @property
    def variables(self) -> dict[str, str]:
        """What make has to be told to take these settings and data; nothing for the demo's."""
        name = self.configs.name
        if (self.configs, self.data) == (Path("configs", name), Path("data/processed", name)):
            return {} if name == PROFILE else {"PROFILE": name}
        return {"CONFIGS": str(self.configs), "DATA": str(self.data)}


def _at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings


def command(verb: str, run: Path | None = None, origin: Origin | None = None) -> str:
    """What one types for a stage of a run, or for a data set: complete, for make where make can be told, else bare."""
    settings = STAGES[verb][1]
    made = origin if verb in MADE else None
    variables = {"RUN": str(run)} if run is not None and str(run) != RUN else {}
    variables |= origin.variables if origin and settings else {}
    if not all(map(PLAIN.fullmatch, variables.values())) or (made and not made.is_for_make(settings)):
        return _bare(verb, run, made)
    if made:
        variables |= {"SOURCES": " ".join(made.sources), "SET": " ".join(made.overrides)}
    return " ".join(["make", verb, *(f"{name}={_quoted(value)}" for name, value in variables.items() if value)])


def of_folder(verb: str, folder: Path, *, raw: bool = True) -> str:
    """What one types for the stage that writes into ``folder``, by what is remembered there.

    Without ``raw`` it names no raw files, whose names may be a patient's.
    """
    if verb not in STAGES:
        return f"make {verb}"
    came = Origin.read(folder)
    if verb != "data":
        return command(verb, folder, came)
    profile = folder.name if Path("configs", folder.name).is_dir() else PROFILE
    came = came or Origin(Path("configs", profile, "data.yaml"), folder)
    return command(verb, origin=came if raw else came.without_sources)


def imported(source: Path, base: str, run: Path) -> str:
    """What one types to bring adapters in from elsewhere."""
    words = {"FROM": str(source), "BASE": base, "RUN": str(run)}
    if all(map(PLAIN.fullmatch, words.values())):
        return " ".join(["make import", *(f"{name}={word}" for name, word in words.items())])
    return shlex.join(
        [sys.executable, "tools/import_adapter.py", str(source), "--base", base or "MODEL", "--out", str(run)]
    )


def _quoted(value: str) -> str:
    """For the shell, in the quotes that are read most easily."""
    if PLAIN.fullmatch(value):
        return value
    return shlex.quote(value) if re.search(r'["\\`!$]', value) else f'"{value}"'


def _bare(verb: str, run: Path | None, made: Origin | None) -> str:
    """The call of the tool itself."""
    words: list[Any] = [sys.executable, f"tools/{STAGES[verb][0]}.py", *FLAGS.get(verb, ())]
    if made:
        words += made.sources if run is None else [made.data]
        words += ["--config", made.config, "--out", made.data if run is None else run]
        words += [part for text in made.overrides for part in ("--set", text)]
    elif run is not None:
        words.append(run)
    return shlex.join(map(str, words))
