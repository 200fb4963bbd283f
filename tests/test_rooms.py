"""The house: every import runs downwards through the rooms of docs/ARCHITECTURE.md, and nothing grows too large."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.source import LIBRARY, ROOT, TOOLS, nodes

MODULES = {
    ".".join(path.relative_to(ROOT / "lib").with_suffix("").parts).removesuffix(".__init__"): path for path in LIBRARY
}
MOST_MODULES = 16  # beside the rooms
MOST_LINES = {ast.ClassDef: 200, ast.FunctionDef: 50, ast.AsyncFunctionDef: 50}
FILE_LINES = 300


def floors() -> list[set[str]]:
    """The rows of the table of rooms, the highest first."""
    text = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.split("## The rooms of")[1].split("\n## ")[0]
    return [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table.splitlines() if row.startswith("| `")]


def room(module: str) -> str:
    """The room of a module, or the module itself where it stands at the root."""
    return module.split(".")[1] if "." in module else ""


def imports(module: str) -> Iterator[tuple[int, str]]:
    """(line, module) of everything of medtune that a module imports, wherever the import stands."""
    for node in nodes(MODULES[module]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "medtune":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "medtune")


def test_the_table_has_every_room_and_module_of_the_root_once() -> None:
    named = [name for floor in floors() for name in floor]
    there = {room(module) for module in MODULES if room(module)}
    assert sorted(named) == sorted(there)


def test_a_room_imports_only_rooms_below_it() -> None:
    height = {name: len(floors()) - number for number, floor in enumerate(floors()) for name in floor}
    wrong = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {other}"
        for module in MODULES
        for line, other in imports(module)
        if room(module) and room(other) != room(module) and height[room(other)] >= height[room(module)]
    ]
    assert wrong == []


def test_no_import_runs_in_a_circle() -> None:
    graph = {module: {other for _, other in imports(module) if other != module} for module in MODULES}
    while removed := [module for module, others in graph.items() if not others & graph.keys()]:
        for module in removed:
            del graph[module]
    assert sorted(graph) == []


def test_the_root_holds_about_a_dozen_modules() -> None:
    assert len(list((ROOT / "lib/medtune").glob("*.py"))) <= MOST_MODULES


def test_files_classes_and_functions_are_small_enough_to_be_seen_whole() -> None:
    long = []
    for path in [*LIBRARY, *TOOLS]:
        name, lines = path.relative_to(ROOT), path.read_text(encoding="utf-8").count("\n")
        long += [f"{name}: {lines} lines"] if lines > FILE_LINES else []
        long += [
            f"{name}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
            for node in nodes(path)
            for kind, most in MOST_LINES.items()
            if isinstance(node, kind) and (node.end_lineno or 0) - node.lineno + 1 > most
        ]
    assert long == []
