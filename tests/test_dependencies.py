"""pyproject.toml and the code agree: what is imported is declared, and what is declared is used."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.source import LIBRARY, ROOT, TESTS, TOOLS, nodes

CODE = [*LIBRARY, *TOOLS]
DEMO = ROOT / "lib" / "medtune" / "demo"
OWN = {"medtune", "tools", "tests"}
DRAWN_WITH = {  # of the extra `demo`, which is seldom installed: import name and distribution
    "faker_healthcare": "faker-healthcare-provider",
    "pydicom": "pydicom",
    "pylopdf_fonts_zh_cn": "pylopdf-fonts-zh-cn",
    "skimage": "scikit-image",
}


def declared(*groups: str) -> set[str]:
    """The distributions of ``dependencies`` and of the extras named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for group in groups for one in project["optional-dependencies"][group])]
    return {canonical(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]) for requirement in wanted}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> set[str]:
    """The top-level names a file imports, wherever in it, that are neither Python's nor our own."""

    def names() -> Iterator[str]:
        for node in nodes(path):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module

    own = OWN | {test.stem for test in TESTS}
    return {name.partition(".")[0] for name in names()} - set(sys.stdlib_module_names) - own


@cache
def distributions(name: str) -> set[str]:
    """Those that bring the module ``name``; several where they share a namespace, as MLX's do."""
    return {canonical(dist) for dist in installed().get(name, [DRAWN_WITH.get(name, name)])}


@cache
def installed() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def undeclared(paths: list[Path], allowed: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in paths
        for name in sorted(imported(path))
        if not distributions(name) & allowed
    ]


def test_what_the_library_and_the_tools_import_is_a_dependency() -> None:
    here = [path for path in CODE if DEMO not in path.parents]
    assert undeclared(here, declared()) == []


def test_what_the_demo_is_drawn_with_is_an_extra() -> None:
    assert undeclared([path for path in LIBRARY if DEMO in path.parents], declared("demo")) == []


def test_what_the_tests_import_is_declared() -> None:
    assert undeclared(TESTS, declared("dev", "demo")) == []


def test_what_is_declared_is_used() -> None:
    used = {name for path in [*CODE, *TESTS] for name in imported(path)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    used |= set(re.findall(r"-m (\w+)", makefile))  # programs
    used |= {"xdist"} if "pytest -n" in makefile else set()  # pytest's own plugin for -n
    constants = [node.value for path in CODE for node in nodes(path) if isinstance(node, ast.Constant)]
    used |= {text for text in constants if isinstance(text, str)} & set(DRAWN_WITH)  # pictures and fonts
    assert declared("dev", "demo") - {dist for name in used for dist in distributions(name)} == set()


def test_what_a_locked_package_needs_here_is_locked() -> None:
    """Setup installs the lock and resolves nothing."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = [Requirement(line) for line in re.findall(r"^([\w.-]+==[^\\\n]+)", text, re.M)]
    pins = [pin for pin in pins if not pin.marker or pin.marker.evaluate()]
    lock = {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}
    here = {canonical(dist.name) for dist in metadata.distributions()}
    waiting = [pin for pin in pins if pin.name in here]
    assert len(lock) == len(pins) and len(waiting) > 50
    seen = set[str]()
    while waiting:
        wanted = waiting.pop()
        name = canonical(wanted.name)
        assert name in lock and wanted.specifier.contains(lock[name], prereleases=True), f"{wanted}: run make lock"
        if name in here and str(wanted) not in seen:
            seen.add(str(wanted))
            waiting += needs(name, {"", *wanted.extras})


def needs(name: str, extras: set[str]) -> Iterator[Requirement]:
    """What an installed distribution requires on this system, with these extras of its own."""
    for need in map(Requirement, metadata.requires(name) or []):
        if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in extras):
            yield need
