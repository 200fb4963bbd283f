"""CONTRIBUTING.md is followed to the letter in a copy of the repository: what its examples add works there at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import fakerun
from tests.test_report import edit

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COPIED = ("lib", "tools", "tests", "configs", "Makefile", "pyproject.toml", "requirements.lock")
LINKED = ("data/demo", "data/raw/demo")  # only read
BLOCK = re.compile(r"(?:^(New file|In) `([^`\n]+)`[^\n]*:\n\n)?^```(\w*)\n(.*?)^```$", re.M | re.S)
MIMO = {
    "model_type": "mimo", "hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 11008,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151680, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block and where it goes: "" for commands and what they show."""

    path: str
    kind: str
    text: str

    @property
    def marks(self) -> list[str]:
        """Of a change: `+`, `-` or a blank, line by line."""
        return [line[0] for line in self.text.splitlines()]


def blocks(title: str) -> list[Block]:
    """The blocks of one chapter, in order; each says what it is for."""
    [chapter] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    found = [(verb, Block(path, kind, text)) for verb, path, kind, text in BLOCK.findall(chapter)]
    assert chapter.count("\n```") == 2 * len(found)
    for verb, block in found:
        assert verb == {"diff": "In", "sh": "", "text": ""}.get(block.kind, "New file"), block
    return [block for _, block in found]


def patched(text: str, change: str) -> str:
    """``text`` after a change; the lines that are there already must be, once."""
    lines, rows = text.splitlines(), change.splitlines()
    before, after = ([row[1:] for row in rows if row[0] != mark] for mark in "+-")
    places = [at for at in range(len(lines)) if lines[at : at + len(before)] == before]
    assert len(places) == 1, f"where does this go?\n{change}"
    return "\n".join([*lines[: places[0]], *after, *lines[places[0] + len(before) :], ""])


def squeezed(text: str) -> str:
    return " ".join(text.split())


class Copy:
    """What a reader of the page has before them: the repository, and an environment in `.venv`."""

    def __init__(self, at: Path) -> None:
        self.at, self.said = at, ""
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, at / name)
        for name in LINKED:
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            (at / name).symlink_to(ROOT / name)
        python = at / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        (at / ".venv" / ".medtune").touch()

    def run(self, commands: str) -> str:
        """What the shell says to ``commands``, all of which must succeed."""
        environment = {**os.environ, "PYTHONPATH": str(self.at / "lib")}
        done = subprocess.run(["bash", "-euc", commands], cwd=self.at, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, f"{commands}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def follow(self, block: Block) -> None:
        """Do what a block of the page says."""
        path = self.at / block.path
        if block.kind == "sh":
            self.said = self.run(block.text)
        elif block.kind == "text":
            assert squeezed(block.text) in squeezed(self.said)
        elif block.kind == "diff":
            path.write_text(patched(path.read_text(encoding="utf-8"), block.text), encoding="utf-8")
        else:
            assert not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


def layout(copy: Copy) -> None:
    """The manifest names it, and every row is a record."""
    manifest = json.loads((copy.at / "data/processed/clinic/manifest.json").read_text(encoding="utf-8"))
    [source] = manifest["results"]["sources"]
    assert (source["layout"], source["records"], source["rejected"]) == ("wenda", 3, 0)


def check(copy: Copy) -> None:
    """It scores, and the report names it in both languages."""
    run = fakerun.write_run(copy.at / "build")
    edit(run / "evaluation.json", checks={"asks_back": {"n": 9, "baseline": 0.5, "tuned": 0.1}})
    for lang, name in (("en", "asks back"), ("zh", "主动追问")):
        copy.run(f".venv/bin/python tools/make_report.py {run} --out build/{lang} --lang {lang}")
        report = (copy.at / "build" / lang / "REPORT.md").read_text(encoding="utf-8")
        assert name in report and "asks_back" not in report


def level(copy: Copy) -> None:
    """A deploy shows its verdict, as the page says, and the receipt keeps it."""
    from medtune.demo.random_model import write_twin
    from tests.deployed import write_run

    [shown] = re.findall(r"`(L0 [^`]+)`", PAGE)
    run = write_run(copy.at / "build" / "run", write_twin(copy.at / "build" / "base", moe=False, layers=2), size=0.1)
    said = copy.run(f".venv/bin/python tools/deploy_to_lmstudio.py {run} --config {run}/deploy.yaml")
    assert shown in said
    proofs = json.loads((run / "deployment.json").read_text(encoding="utf-8"))["results"]["proofs"]
    assert {"level": "L0", "name": "model card", "verdict": "passed"}.items() <= proofs[0].items()


def profile(copy: Copy) -> None:
    """It is a whole one."""
    names = {path.name for path in (copy.at / "configs/mine_4b").iterdir()}
    assert names == {path.name for path in (ROOT / "configs/demo").iterdir()}


def family(copy: Copy) -> None:
    """The planner knows a model of it by its config.json."""
    (copy.at / "mimo").mkdir()
    (copy.at / "mimo" / "config.json").write_text(json.dumps(MIMO))
    assert "mimo: 7.6 B parameters" in copy.run("make plan SET=base_model=mimo")


EXAMPLES: dict[str, Callable[[Copy], None]] = {
    "A layout": layout,
    "A check": check,
    "A proof level": level,
    "A profile": profile,
    "A model family": family,
}


@pytest.mark.model("runs the tests and tools of a copy")
@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_works_as_it_stands_on_the_page(title: str, tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    for block in blocks(title):
        copy.follow(block)
    EXAMPLES[title](copy)


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_is_one_new_file_or_row_and_its_line_in_the_tests(title: str) -> None:
    places = {block.path for block in blocks(title) if block.path.startswith("lib/")}
    folders = {block.path.split("/")[1] for block in blocks(title) if block.path.startswith("configs/")}
    lines = [block for block in blocks(title) if block.path.startswith("tests/")]
    assert len(places | folders) == 1 and len(lines) == len(places)
    for block in blocks(title):
        if block.kind == "diff" and not folders:
            assert (block.marks.count("+"), block.marks.count("-")) == (1, 0)


@pytest.mark.parametrize("block", [b for title in EXAMPLES for b in blocks(title) if b.path.endswith(".py")])
def test_the_code_of_the_page_is_written_as_the_house_is(block: Block) -> None:
    text = block.text if block.kind == "python" else patched((ROOT / block.path).read_text("utf-8"), block.text)
    for how in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *how, "--no-cache", "--stdin-filename", block.path, "-"]
        done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("change", [" no such line\n+new\n", " twice\n+new\n", " ice\n+new\n", "-gone\n+new\n"])
def test_a_change_whose_place_is_not_there_once_is_refused(change: str) -> None:
    assert patched("once\ntwice\ntwice\n", " once\n+new\n") == "once\nnew\ntwice\ntwice\n"
    with pytest.raises(AssertionError, match="where does this go"):
        patched("once\ntwice\ntwice\n", change)


def test_every_command_file_and_link_of_the_page_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", PAGE)) <= targets
    made = {block.path for title in EXAMPLES for block in blocks(title)}
    named = set(re.findall(r"`((?:lib|tools|tests|configs|docs)/[\w/.]+)`", PAGE)) - made
    linked = {target for target in re.findall(r"\]\(([^)]+)\)", PAGE) if not target.startswith("#")}
    assert [path for path in named | linked if not (ROOT / path).exists()] == []
    anchors = {re.sub(r"\W+", "-", title.lower()) for title in re.findall(r"^## (.+)$", PAGE, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
