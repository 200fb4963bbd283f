"""Which test files need MLX: read off their imports, and those of what they import, without importing anything."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASES = (ROOT / "lib", ROOT, ROOT / "tests")
IMPORT = re.compile(r"^(?:from (\S+) import (\([^)]*\)|[^\n#]*)|import (\S+))", re.MULTILINE)  # at the margin: at once


def imports_mlx(path: Path) -> bool:
    """Whether importing the Python file at ``path`` imports MLX."""
    seen, waiting = {path}, [path]
    while waiting:
        for name in _imported(waiting.pop()):
            if name.startswith("mlx"):
                return True
            new = set(_files(name)) - seen
            seen |= new
            waiting += new
    return False


@cache
def _imported(path: Path) -> list[str]:
    """Dotted names; of ``from a import b`` both a and a.b, which may be a module too."""
    found = []
    for match in IMPORT.finditer(path.read_text(encoding="utf-8")):
        parts = re.findall(r"(\w+)(?: as \w+)?", match[2] or "")
        found += [match[1] or match[3], *(f"{match[1]}.{part}" for part in parts)]
    return found


@cache
def _files(name: str) -> list[Path]:
    """The files of this repository that importing the module ``name`` runs."""
    parts = name.split(".")
    places = [base.joinpath(*parts[:end]) for end in range(1, len(parts) + 1) for base in BASES]
    return [path for place in places for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
