"""The Makefile, with stand-ins for the tools: what is up to date is left alone, what is asked for by name is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = """#!/bin/bash
# writes the receipt of the tool it is called for, and remembers the call
echo "$*" >> calls
args=("$@")
for i in "${!args[@]}"; do [ "${args[$i]}" = --out ] && out=${args[$((i + 1))]}; done
case $1 in
  tools/prepare_data.py) receipt=$out/manifest.json ;;
  tools/train_final.py) receipt=$out/training.json ;;
  tools/test_v2_model.py) receipt=$2/evaluation.json ;;
  tools/deploy_to_lmstudio.py) receipt=$2/deployment.json ;;
  tools/make_report.py) receipt=$out/REPORT.md ;;
  *) exit 0 ;;
esac
case "$*" in *--plan*|*--cli*|*--rollback*|*--undeploy*) exit 0 ;; esac
mkdir -p "$(dirname "$receipt")" && echo '{}' > "$receipt"
[ $1 = tools/train_final.py ] && touch "$out/adapters.safetensors" && echo "${4%/train.yaml} $2" > "$out/.origin"
exit 0
"""
CHAIN = ["prepare_data", "train_final", "test_v2_model", "deploy_to_lmstudio", "make_report"]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile and the configs, with a stand-in for Python and for the environment."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name in ("requirements.lock", "pyproject.toml", "tools/setup.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("lib", "tests"):
        (tmp_path / name).mkdir()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN)
    python.chmod(0o755)
    age(tmp_path, 1000)
    (tmp_path / ".venv" / ".medtune").touch()
    return tmp_path


def age(folder: Path, seconds: float) -> None:
    """Make everything in ``folder`` so much older: file systems may only keep whole seconds."""
    for path in sorted(folder.rglob("*")):
        now = path.stat().st_mtime
        os.utime(path, (now - seconds, now - seconds))


def make(project: Path, *words: str, code: int = 0) -> tuple[list[str], str]:
    """Run make; returns the calls of tools, each from its name on, and what was printed."""
    (project / "calls").unlink(missing_ok=True)
    done = subprocess.run(
        [os.environ.get("MAKE_TO_TEST", "make"), *words], cwd=project, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stdout + done.stderr
    age(project, 10)
    calls = (project / "calls").read_text().splitlines() if (project / "calls").exists() else []
    return [call.removeprefix("tools/") for call in calls], done.stdout + done.stderr


def tools(calls: list[str]) -> list[str]:
    return [call.split(".py")[0] for call in calls]


def test_make_alone_lists_the_targets(project: Path) -> None:
    calls, said = make(project)
    assert calls == []
    targets = ("data", "plan", "train", "test-model", "deploy", "report", "all", "test-fast", "test", "check", "clean")
    for target in targets:
        assert f"\n  {target} " in said


def test_the_fast_tests_are_those_that_need_no_model(project: Path) -> None:
    assert make(project, "test-fast")[0] == ["-m pytest -n 2 -m not slow and not model"]


def test_a_fresh_project_goes_through_every_stage_in_order(project: Path) -> None:
    calls, _ = make(project, "all")
    assert tools(calls) == CHAIN


def test_a_second_make_all_does_nothing_and_says_so_in_one_line(project: Path) -> None:
    make(project, "all")
    calls, said = make(project, "all")
    assert calls == []
    assert said.startswith("nothing to do: adapters_v2") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("edited", "redone"),
    [("data", CHAIN), ("train", CHAIN[1:]), ("eval", CHAIN[2:]), ("deploy", CHAIN[3:])],
)
def test_an_edited_config_repeats_its_stage_and_those_after_it_only(
    project: Path, edited: str, redone: list[str]
) -> None:
    make(project, "all")
    (project / f"configs/demo/{edited}.yaml").touch()
    assert tools(make(project, "all")[0]) == redone
    assert make(project, "all")[0] == []


def test_report_only_reads_even_where_everything_is_out_of_date(project: Path) -> None:
    make(project, "all")
    for config in (project / "configs/demo").iterdir():
        config.touch()
    assert tools(make(project, "report")[0]) == ["make_report"]


def test_set_goes_to_the_stage_that_was_asked_for_and_to_no_other(project: Path) -> None:
    calls, _ = make(project, "train", "SET=iters=50 lora.rank=64")
    assert tools(calls) == CHAIN[:2]
    assert "--set" not in calls[0]
    assert calls[1].endswith("--set iters=50 --set lora.rank=64")
    calls, _ = make(project, "train", "SET=iters=60")
    assert tools(calls) == ["train_final"], "the tool says whether that is another run"
    calls, _ = make(project, "test-model", "SET=max_tokens=5")
    assert tools(calls) == ["test_v2_model"] and calls[0].endswith("--set max_tokens=5")


@pytest.mark.parametrize("goal", ["all", "report", "bench", "monitor", "help"])
def test_set_is_refused_where_nothing_would_read_it(project: Path, goal: str) -> None:
    calls, said = make(project, goal, "SET=iters=50", code=2)
    assert calls == [] and "SET is for one of these: make data|plan|train" in said


READ = {
    "SOURCES": "data train ablate all",
    "HOSTS": "train all",
    "BASELINE": "test-model report all",
    "REPORT_LANG": "report all",
    "PINNED": "deploy prove all",
    "WEB": "monitor",
    "FROM": "import",
    "BASE": "import",
    "FOLDER": "inspect",
    "OUT": "export",
}
GOALS = "help all data plan train monitor import test-model chat deploy prove rollback undeploy inspect export report"


@pytest.mark.parametrize("variable", READ)
def test_a_variable_that_no_goal_reads_is_refused_and_any_that_one_reads_is_not(project: Path, variable: str) -> None:
    for goal in GOALS.split():
        if goal in READ[variable].split():
            make(project, "-n", goal, f"{variable}=1")
        else:
            calls, said = make(project, goal, f"{variable}=1", code=2)
            assert calls == [] and f"{variable} is for one of these: make {READ[variable].replace(' ', '|')}" in said
            assert len(said.splitlines()) == 1
    make(project, "-n", "test", f"{variable}=", code=0)


def test_a_variable_of_the_environment_is_nobodys_wish(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in READ:
        monkeypatch.setenv(name, "1")
    calls, _ = make(project, "monitor")
    assert calls == ["monitor_training.py adapters_v2"]


@pytest.mark.parametrize(
    ("goal", "words", "said"),
    [
        ("import", [], "make import FROM=FOLDER BASE=MODEL"),
        ("import", ["FROM=a"], "make import FROM=FOLDER BASE=MODEL"),
        ("import", ["BASE=a"], "make import FROM=FOLDER BASE=MODEL"),
        ("inspect", [], "make inspect FOLDER=FOLDER"),
        ("export", [], "make export OUT=FOLDER"),
    ],
)
def test_what_a_goal_needs_is_asked_for(project: Path, goal: str, words: list[str], said: str) -> None:
    calls, error = make(project, goal, *words, code=2)
    assert calls == [] and f"error: say what: {said}\n" in error


def test_folders_with_spaces_reach_their_tools_as_one(project: Path) -> None:
    assert make(project, "inspect", "FOLDER=my models/a")[0] == ["inspect_model.py my models/a"]
    _, said = make(project, "-n", "import", "FROM=from there", "BASE=a base")
    assert "tools/import_adapter.py 'from there' --base 'a base'" in said


def test_a_deploy_can_be_proved_in_lm_studios_versions_even_where_it_is_done_already(project: Path) -> None:
    make(project, "all")
    calls, _ = make(project, "deploy", "PINNED=1")
    assert tools(calls) == ["deploy_to_lmstudio"] and calls[0].rstrip().endswith("--pinned")
    assert tools(make(project, "all", "PINNED=1")[0]) == ["deploy_to_lmstudio", "make_report"]
    assert "--pinned" not in make(project, "prove", "PINNED=0")[0][0]


@pytest.mark.parametrize("goal", ["prove", "rollback", "undeploy"])
def test_what_was_deployed_under_another_name_is_proved_and_taken_back_under_it(project: Path, goal: str) -> None:
    calls, _ = make(project, goal, "SET=name=other")
    assert f"--{goal} --set name=other" in calls[0]


def test_a_folder_is_inspected_and_a_deployed_model_exported_by_a_tool_each(project: Path) -> None:
    assert make(project, "inspect", "FOLDER=models/a/b")[0] == ["inspect_model.py models/a/b"]
    calls, _ = make(project, "export", "OUT=build/hf", "RUN=adapters_x", "SET=name=other")
    assert calls == ["export_hf.py adapters_x --config configs/demo/deploy.yaml --out build/hf --set name=other"]


def test_a_raw_file_edited_in_place_or_added_anywhere_is_read_again(project: Path) -> None:
    mine = project / "data/raw/mine/my files"
    mine.mkdir(parents=True)
    (mine / "a: b#c.jsonl").write_text("1")
    age(project / "data", 900)
    make(project, "data", "PROFILE=lora_2000")
    assert tools(make(project, "train", "PROFILE=lora_2000")[0]) == ["train_final"]
    (mine / "a: b#c.jsonl").write_text("2")
    assert tools(make(project, "train", "PROFILE=lora_2000")[0])[0] == "prepare_data"


def test_a_stage_asked_for_by_its_name_reaches_its_tool_whatever_the_clock_says(project: Path) -> None:
    make(project, "all")
    for goal, tool in zip(("data", "train", "test-model", "deploy", "report"), CHAIN, strict=True):
        assert tools(make(project, goal)[0]) == [tool]


def test_another_profile_asks_the_trainer_although_its_files_are_older(project: Path) -> None:
    make(project, "data", "PROFILE=lora_2000")
    make(project, "all")
    calls, _ = make(project, "all", "PROFILE=lora_2000")
    assert tools(calls)[0] == "train_final" and "data/processed/lora_2000 " in calls[0]


@pytest.mark.parametrize(
    ("goal", "tool"),
    [
        ("chat", "test_v2_model"),
        ("test-model", "test_v2_model"),
        ("deploy", "deploy_to_lmstudio"),
        ("prove", "deploy_to_lmstudio"),
        ("report", "make_report"),
        ("monitor", "monitor_training"),
        ("rollback", "deploy_to_lmstudio"),
        ("export OUT=x", "export_hf"),
    ],
)
@pytest.mark.parametrize("there", ["nothing", "adapters", "finished", "finished, all settings edited", "receipt gone"])
def test_only_train_and_all_train_or_prepare_data(project: Path, goal: str, tool: str, there: str) -> None:
    run = project / "adapters_x"
    if there == "adapters":
        run.mkdir()
        (run / "adapters.safetensors").write_text("a friend's")
    elif there != "nothing":
        make(project, "train", "RUN=adapters_x")
        (run / "metrics.jsonl").touch()
    for config in (project / "configs/demo").iterdir() if "edited" in there else ():
        config.touch()
    if there == "receipt gone":
        (run / "training.json").unlink()
    calls, _ = make(project, *goal.split(), "RUN=adapters_x")
    assert tools(calls)[-1] == tool and not {"train_final", "prepare_data"} & set(tools(calls))
    assert "adapters_x" in calls[-1]


def test_a_deploy_measures_what_is_not_measured_where_the_data_is_there(project: Path) -> None:
    make(project, "train", "RUN=adapters_x")
    assert tools(make(project, "deploy", "RUN=adapters_x")[0]) == ["test_v2_model", "deploy_to_lmstudio"]
    assert tools(make(project, "deploy", "RUN=adapters_x")[0]) == ["deploy_to_lmstudio"]
    shutil.rmtree(project / "data/processed")
    (project / "adapters_x/evaluation.json").unlink()
    assert tools(make(project, "deploy", "RUN=adapters_x")[0]) == ["deploy_to_lmstudio"], "a run folder on another Mac"


def test_new_data_for_the_next_run_does_not_measure_the_finished_one_again(project: Path) -> None:
    make(project, "all")
    make(project, "data", "SET=seed=1")
    assert tools(make(project, "deploy")[0]) == ["deploy_to_lmstudio"]


def test_the_trainer_decides_whether_it_is_done_whatever_the_clock_says(project: Path) -> None:
    make(project, "train")
    config = project / "configs/demo/train.yaml"
    os.utime(config, (1, 1))  # an edited file brought back with its old date
    assert tools(make(project, "train")[0]) == ["train_final"]


@pytest.mark.parametrize("goal", ["train", "chat", "all", "deploy", "report", "help"])
@pytest.mark.parametrize(
    "name", ["my run", " a  b ", "", "a:b", "a%b", "a;b", "a'b", "a*", "$(touch x)", "a\\b", "a#b"]
)
def test_a_run_with_a_name_that_make_cannot_read_is_refused_in_one_sentence(
    project: Path, goal: str, name: str
) -> None:
    before = sorted(project.rglob("*"))
    calls, said = make(project, goal, f"RUN={name.replace('$', '$$')}", code=2)
    assert calls == [] and said.count("\n") == 1 and "RUN=" in said
    assert sorted(project.rglob("*")) == before
    pasted = said.strip().removesuffix(".  Stop.").split("as in: ")[1].split()
    assert pasted[:2] == ["make", goal]
    make(project, *pasted[1:])


def test_what_is_deployed_is_proved_and_taken_back_as_it_was_unless_settings_are_named(project: Path) -> None:
    make(project, "all")
    assert make(project, "undeploy")[0] == ["deploy_to_lmstudio.py adapters_v2 --undeploy"]
    assert make(project, "export", "OUT=a b")[0] == ["export_hf.py adapters_v2 --out a b"]
    assert "--config configs/lora_2000/deploy.yaml" in make(project, "undeploy", "PROFILE=lora_2000")[0][0]
    (project / "adapters_v2/deployment.json").unlink()
    assert "--config configs/demo/deploy.yaml" in make(project, "undeploy")[0][0]


def test_a_run_remembers_its_profile_until_another_is_named(project: Path) -> None:
    make(project, "train", "PROFILE=lora_2000", "RUN=adapters_x/")
    calls, _ = make(project, "chat", "RUN=adapters_x")
    assert "--config configs/lora_2000/eval.yaml" in calls[-1] and tools(calls) == ["test_v2_model"]
    assert "configs/demo/" in make(project, "chat", "RUN=adapters_x", "PROFILE=demo")[0][0]
    assert "configs/demo/" in make(project, "plan")[0][0], "another run has its own"
    assert "docs/reports/adapters_x/" in make(project, "report", "RUN=adapters_x/")[0][0]


def test_a_training_that_was_stopped_goes_on_with_its_own_profile(project: Path) -> None:
    python = project / ".venv/bin/python"
    works = python.read_text()
    origin = 'mkdir -p $out && echo "${4%/train.yaml} $2" > $out/.origin && touch $out/metrics.jsonl'
    stop = f"[ $1 = tools/train_final.py ] && {origin} && exit 130\ncase $1 in"
    python.write_text(works.replace("case $1 in", stop, 1))
    make(project, "train", "PROFILE=lora_2000", code=2)
    python.write_text(works)
    assert "configs/lora_2000/train.yaml" in make(project, "train")[0][-1]


def test_a_training_that_was_refused_leaves_no_profile_behind(project: Path) -> None:
    python = project / ".venv/bin/python"
    works = python.read_text()
    python.write_text(works.replace("case $1 in", "[ $1 = tools/train_final.py ] && exit 1\ncase $1 in", 1))
    make(project, "train", "PROFILE=lora_2000", code=2)
    python.write_text(works)
    calls, _ = make(project, "all")
    assert tools(calls) == CHAIN and all("lora_2000" not in call for call in calls)
    assert "configs/demo/" in make(project, "chat")[0][-1], "and the run that began remembers its own"


def test_a_run_without_its_adapters_is_not_called_trained(project: Path) -> None:
    make(project, "all")
    (project / "adapters_v2/adapters.safetensors").unlink()
    assert tools(make(project, "all")[0])[0] == "train_final", "which says what is gone"


def test_a_profile_that_does_not_exist_is_named_with_those_that_do(project: Path) -> None:
    _, said = make(project, "data", "PROFILE=lora_200", code=2)
    assert "configs/lora_200/data.yaml: no such file" in said and "lora_2000" in said


def test_a_baseline_and_sources_reach_their_tools(project: Path) -> None:
    make(project, "all")
    calls, _ = make(project, "test-model", "BASELINE=adapters_v1")
    assert tools(calls) == ["test_v2_model"] and "--baseline adapters_v1" in calls[0].replace("'", "")
    calls, _ = make(project, "data", "SOURCES=a.jsonl b")
    assert calls[0].startswith("prepare_data.py a.jsonl b --config configs/demo/data.yaml")


def test_an_imported_adapter_is_deployed_without_being_trained_again(project: Path) -> None:
    (project / "adapters_x").mkdir()
    (project / "adapters_x" / "training.json").write_text('{"results": {"imported": {}}}')
    calls, _ = make(project, "deploy", "RUN=adapters_x")
    assert tools(calls) == ["deploy_to_lmstudio"], "it needs no data set"
    calls, _ = make(project, "test-model", "RUN=adapters_x")
    assert tools(calls) == ["test_v2_model"], "it is measured where the person asks"


def test_clean_keeps_adapters_and_raw_data(project: Path) -> None:
    make(project, "all")
    (project / "data/raw/mine").mkdir(parents=True)
    make(project, "clean")
    assert (project / "adapters_v2/training.json").exists() and (project / "data/raw/mine").exists()
    assert not (project / "data/processed").exists() and not (project / "docs/reports").exists()


def test_setup_is_skipped_when_the_lock_did_not_change(project: Path) -> None:
    venv = project / ".venv"
    sums = subprocess.run(["cksum", "requirements.lock", "pyproject.toml"], cwd=project, capture_output=True, text=True)
    (venv / ".medtune").write_text(sums.stdout)
    age(venv, 5000)
    (project / "pyproject.toml").touch()
    assert make(project, "setup")[1].strip() in ("tools/setup.sh .venv", "")
    assert not (project / "calls").exists(), "nothing was installed"


def test_no_python_at_all_is_one_line(project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / ".venv")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("bash", "cksum", "cat", "dirname"):
        (bare / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        ["bash", "tools/setup.sh", ".venv"], cwd=project, env={"PATH": str(bare)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Python 3.11 or newer found") and done.stderr.count("\n") == 1


HALF_MADE = """#!/bin/bash
case "$*" in *pip*) echo "No module named pip" >&2; exit 1 ;; esac
"""
SYSTEM_PYTHON = """#!/bin/bash
# a Python whose venv module works, and empties what it is told to
echo "$*" >> "$PWD/calls"
[ "$1 $2" = "-m venv" ] || exit 0
for venv in "$@"; do :; done
case " $* " in *" --clear "*) rm -r "$venv" ;; esac
mkdir -p "$venv/bin" && cp "$0" "$venv/bin/python"
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has what setup.sh needs and a Python, no uv."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("bash", "cksum", "cat", "dirname", "cp", "rm", "mkdir", "touch"):
        (folder / name).symlink_to(shutil.which(name) or name)
    (folder / "python3").write_text(SYSTEM_PYTHON)
    (folder / "python3").chmod(0o755)
    return {"PATH": str(folder)}


def test_an_environment_without_pip_is_made_anew(project: Path, bare: dict[str, str]) -> None:
    venv = project / ".venv"
    (venv / "bin" / "python").write_text(HALF_MADE)
    (venv / "pyvenv.cfg").touch()
    (venv / ".medtune").unlink()
    command = ["bash", "tools/setup.sh", ".venv"]
    done = subprocess.run(command, cwd=project, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = (project / "calls").read_text().splitlines()
    assert "-m venv --clear .venv" in calls and calls[-1].startswith("-m pip install")
    assert calls[-2].endswith("--no-deps -r requirements.lock"), "an old pip finds extras in a lock with hashes wrong"
    assert (venv / ".medtune").exists() and not (venv / "pyvenv.cfg").exists(), "nothing of the half is left"


def test_a_folder_that_is_no_environment_is_not_emptied(project: Path, bare: dict[str, str]) -> None:
    (project / "mine").mkdir()
    (project / "mine" / "letter.txt").touch()
    subprocess.run(["bash", "tools/setup.sh", "mine"], cwd=project, env=bare, capture_output=True, check=True)
    assert (project / "mine" / "letter.txt").exists() and (project / "mine" / ".medtune").exists()
