"""What holds for the repository as a whole: every key is read, every tool stands alone, nothing names a registry."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from medtune import schemas
from tests.source import LIBRARY, ROOT, TOOLS, nodes, tree

CONFIGS = (schemas.DataConfig, schemas.TrainConfig, schemas.EvalConfig, schemas.DeployConfig)


def tracked() -> list[Path]:
    """The files of this checkout, as git lists them; all text files outside git."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def fields(schema: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Every key of a config and the schema it belongs to, nested ones included."""
    from medtune.config.errors import models_in

    found = dict.fromkeys(schema.model_fields, schema)
    for field in schema.model_fields.values():
        for part in models_in(field.annotation):
            found |= fields(part)
    return found


def attributes(inside: Iterable[ast.AST]) -> set[str]:
    return {node.attr for node in inside if isinstance(node, ast.Attribute)}


def test_every_key_of_every_config_is_read_by_the_code() -> None:
    schema = Path(schemas.__file__)
    read = {name for path in [*LIBRARY, *TOOLS] if path != schema for name in attributes(nodes(path))}
    # a schema's own methods read its keys for those who call them
    read |= {name for method in functions(schema) if method.name in read for name in attributes(ast.walk(method))}
    unread = {
        f"{owner.__name__}.{key}" for schema in CONFIGS for key, owner in fields(schema).items() if key not in read
    }
    # read by name in a loop over the keys of the same kind
    assert unread - {"Gate.accuracy", "Gate.warmth", "Gate.vision"} == set()


@pytest.mark.parametrize("stage", ["data", "train", "eval", "deploy"])
def test_every_profile_holds_every_config_and_it_is_valid(stage: str) -> None:
    from medtune.config import load

    schema = dict(zip(("data", "train", "eval", "deploy"), CONFIGS, strict=True))[stage]
    profiles = sorted(path for path in (ROOT / "configs").iterdir() if path.is_dir())
    assert {"demo", "lora_2000", "qwen3_vl_2b", "qwen3_vl_4b"} <= {profile.name for profile in profiles}
    for profile in profiles:
        load(schema, profile / f"{stage}.yaml")


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.name)
def test_a_tool_is_a_program_that_says_what_it_reads_and_writes_and_imports_no_other(tool: Path) -> None:
    text = tool.read_text(encoding="utf-8")
    inside = nodes(tool)
    assert text.startswith("#!/usr/bin/env python3\n")
    assert os.access(tool, os.X_OK)
    assert text.rstrip().endswith('if __name__ == "__main__":\n    cli.run(main)')
    doc = ast.get_docstring(tree(tool)) or ""
    assert re.match(r"[^\n]+ -> [^\n]+: [^\n]+", doc), "the first line is: what it takes -> what it gives: one sentence"
    assert "writes " in doc
    assert "reads " in doc or tool.stem.startswith("make_demo"), "the demo is made from what stands in the library"
    others = {path.stem for path in TOOLS} - {tool.stem}
    imported = {alias.name.split(".")[-1] for node in inside if isinstance(node, ast.Import) for alias in node.names}
    imported |= {
        part
        for node in inside
        if isinstance(node, ast.ImportFrom)
        for part in [*(node.module or "").split("."), *(alias.name for alias in node.names)]
    }
    assert not imported & (others | {"tools"})


def test_every_tool_helps_without_importing_mlx() -> None:
    script = """
import contextlib, io, json, runpy, sys
said = {}
for path in sys.argv[1:]:
    out = io.StringIO()
    main = runpy.run_path(path)["main"]
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(["--help"])
    said[path] = out.getvalue()
print(json.dumps([said, sorted(name for name in sys.modules if name.split(".")[0].startswith("mlx"))]))
"""
    command = [sys.executable, "-c", script, *map(str, TOOLS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    said, imported = json.loads(done.stdout)
    assert imported == []
    assert all("usage:" in text for text in said.values())


def test_the_makefile_calls_every_tool_that_is_not_for_making_the_demo() -> None:
    makefile = (ROOT / "Makefile").read_text()
    called = set(re.findall(r"tools/(\w+\.(?:py|sh))", makefile))
    assert {name for name in called if not (ROOT / "tools" / name).exists()} == set()
    assert {tool.name for tool in TOOLS if not tool.name.startswith("make_demo")} <= called


def test_no_file_names_a_package_registry() -> None:
    hosts = [
        f"{name}.{end}" for name, end in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"))
    ]
    named = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in tracked()
        if path.suffix not in (".png", ".jpg", ".safetensors")
        for host in hosts
        if host in path.read_text(encoding="utf-8", errors="ignore")
    ]
    assert named == []


def test_the_lock_is_exact_and_has_both_systems_mlx() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] not in " #"]
    assert [line for line in lines if not re.match(r"[\w.-]+==\S+", line)] == []
    packages = {line.split("==")[0]: line for line in lines}
    assert "sys_platform == 'darwin'" in packages["mlx-metal"]
    assert "sys_platform == 'linux'" in packages["mlx-cpu"]


def test_every_package_of_the_lock_has_the_hashes_of_its_files() -> None:
    pins = re.split(r"^(?=[\w.-]+==)", (ROOT / "requirements.lock").read_text(), flags=re.M)[1:]
    assert len(pins) > 50
    assert [pin.split()[0] for pin in pins if not re.search(r"--hash=sha256:[0-9a-f]{64}", pin)] == []


def test_notice_names_the_licence_of_every_locked_package() -> None:
    from tools import make_notice

    list_of_notice = (ROOT / "NOTICE").read_text(encoding="utf-8").partition(make_notice.HEAD)[2]
    named = dict(re.findall(r"^ +(\S+ \S+): (.+)$", list_of_notice, re.M))
    pins = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    assert list(named) == [f"{name} {version}" for name, version in pins], "run make notice"
    here = {f"{name} {version}": stated for name, version in pins if (stated := make_notice.licence(name))}
    assert here.items() <= named.items() and make_notice.UNKNOWN not in named.values()


def test_the_lock_holds_what_pyproject_pins() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M))
    for requirement in wanted:
        name, version = re.match(r"([\w.-]+)(?:\[\w+\])?(?:==([\w.]+))?", requirement).groups()  # type: ignore[union-attr]
        assert name.lower() in lock, f"{name}: run make lock"
        assert version in (None, lock[name.lower()])


def test_git_holds_no_adapters_no_large_file_and_ignores_what_is_made() -> None:
    files = tracked()
    assert [path for path in files if path.stat().st_size > 10 * 2**20] == []
    assert [path for path in files if path.name == "adapters.safetensors"] == []
    made = ["adapters_v2/x", "data/processed/demo/x", "data/cache/x", "docs/reports/x", ".venv/x"]
    ignored = subprocess.run(["git", "check-ignore", *made], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert ignored == made
    assert subprocess.run(["git", "check-ignore", "lib/medtune/cli.py"], cwd=ROOT, capture_output=True).returncode == 1


def functions(path: Path) -> list[Any]:
    return [node for node in nodes(path) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_functions_stay_short_enough_to_be_read_at_once() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in [*LIBRARY, *TOOLS]
        for node in functions(path)
        if node.end_lineno - node.lineno >= 60
    ]
    assert long == []
