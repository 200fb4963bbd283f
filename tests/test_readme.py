"""The READMEs say what is there: folders, commands, profiles, and which Mac fits which, as the planner computes it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from medtune import config, planner
from medtune.planner import Load, Machine
from medtune.planner.machines import GIB, MACS
from medtune.planner.model import GPU
from medtune.schemas import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PROFILES = ("lora_2000", "qwen3_vl_4b", "qwen3_vl_2b")
WORDS = {
    "README.md": {"answers": "{need:.1f} GiB, answers", "trains": "{need:.1f} GiB", "no": "no"},
    "README.zh.md": {"answers": "{need:.1f} GiB，可回答", "trains": "{need:.1f} GiB", "no": "不能"},
}


def cell(profile: str, gigabytes: int, words: dict[str, str]) -> str:
    """What one Mac makes of one profile."""
    train = config.load(TrainConfig, ROOT / "configs" / profile / "train.yaml")
    plan = planner.plan(planner.model_config(train.base_model), train, Load.guess(), GPU, Machine.mac(gigabytes))
    kind = "no" if not plan.fits else "answers" if plan.answers else "trains"
    return words[kind].format(need=plan.peak / GIB)


def rows(words: dict[str, str]) -> list[str]:
    """The rows of the table."""
    return [
        f"| {mac} GB | {Machine.mac(mac).usable / GIB:.1f} GiB | {' | '.join(cell(p, mac, words) for p in PROFILES)} |"
        for mac in MACS
    ]


@pytest.fixture(params=sorted(WORDS))
def readme(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, (ROOT / request.param).read_text(encoding="utf-8")


def test_the_table_of_macs_is_the_planners(readme: tuple[str, str]) -> None:
    name, text = readme
    table = re.search(r"<!-- fits.*?-->\n(.*?)<!-- /fits -->", text, re.S)
    assert table
    assert table[1].splitlines()[2:] == rows(WORDS[name])


def test_every_folder_of_the_tree_is_there_and_none_is_left_out(readme: tuple[str, str]) -> None:
    tree = re.findall(r"^    ([\w./]+?)/? {2,}\S", readme[1], re.M)
    shown = {name.split("/")[0] for name in tree if (ROOT / name).exists()}
    assert [name for name in tree if not (ROOT / name).exists() and not name.startswith("make")] == []
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    folders = {name.split("/")[0] for name in listed if "/" in name and not name.startswith(".")}
    assert folders <= shown


def test_every_command_exists(readme: tuple[str, str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)\b", "\n".join(re.findall(r"`[^`]+`|^    .*", readme[1], re.M))))
    assert {"all", "test", "data", "plan", "train", "test-model", "deploy", "report"} <= named <= targets


def test_every_variable_and_profile_exists(readme: tuple[str, str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in set(re.findall(r"\b([A-Z]{3,}(?:_[A-Z]+)*)=", readme[1])) - {
        "AGX_RELAX_CDM_CTXSTORE_TIMEOUT",
        "MEDTUNE_LANG",
    }:
        assert f"$({name})" in makefile, name
    for profile in set(re.findall(r"PROFILE=(\w+)", readme[1])):
        assert (ROOT / "configs" / profile).is_dir()


def test_every_link_leads_somewhere(readme: tuple[str, str]) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", readme[1]):
        assert (ROOT / target).exists(), target
