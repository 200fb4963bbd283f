"""The repository's own Python files, each parsed once for all tests that look at them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted(ROOT.glob("lib/medtune/**/*.py"))
TOOLS = sorted(ROOT.glob("tools/*.py"))
TESTS = sorted(ROOT.glob("tests/*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """What the file says; read only."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Every node of its tree."""
    return list(ast.walk(tree(path)))
