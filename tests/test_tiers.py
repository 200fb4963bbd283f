"""The tiers of the tests: the fast one needs no model and imports no MLX; a slow test says why it is slow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import LIBRARY, ROOT, TESTS, nodes
from tests.tiers import imports_mlx


def test_a_mark_set_by_hand_says_why() -> None:
    bare = [
        f"{path.name}:{node.lineno}"
        for path in TESTS
        for node in nodes(path)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        for mark in node.decorator_list
        if ast.unparse(mark).startswith(("pytest.mark.slow", "pytest.mark.model"))
        and not (isinstance(mark, ast.Call) and [type(argument) for argument in mark.args] == [ast.Constant])
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("code", "needs"),
    [
        ("import mlx.core as mx", True),
        ("from mlx_vlm.utils import load_model", True),
        ("from medtune.training import (\n    job,\n)", True),
        ("import json\nfrom tests import deployed as d", True),
        ("from medtune import cli, config", False),
        ("def late():\n    import mlx.core", False),
        ("if TYPE_CHECKING:\n    import mlx.core", False),
    ],
)
def test_a_file_needs_mlx_where_importing_it_imports_mlx(code: str, needs: bool, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(code)
    assert imports_mlx(tmp_path / "test_x.py") == needs


@pytest.mark.model("imports the library in a process of its own")
def test_what_is_said_to_need_no_mlx_needs_none() -> None:
    modules = [
        ".".join(path.relative_to(ROOT / "lib").with_suffix("").parts).removesuffix(".__init__")
        for path in LIBRARY
        if not imports_mlx(path)
    ]
    assert {"medtune.cli", "medtune.schemas", "medtune.model.base"} <= set(modules)
    code = (
        "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; print('mlx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
