"""make test-faults: what a person's files can hold, made up by the hundred: one line or a result, never a traceback.

The made-up cases are the same at every run (hypothesis, derandomised), so that what is found stays found.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medtune import cli
from tests.deployed import write_run
from tests.preparing import SETTINGS as DATA
from tests.workshop import SETTINGS, write_dataset
from tools import deploy_to_lmstudio, import_adapter, inspect_model, prepare_data, test_v2_model, train_final

pytestmark = [pytest.mark.slow("hundreds of made-up cases through the tools"), pytest.mark.faults]
made_up = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(1, 8),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from(
        [-1, 0, 2**31, 2**63, 10**30, 1e308, 5e-324, "", " ", "5e-6", "auto", "../..", "/dev/zero", "\ud800"]
    ),
    st.text(max_size=12),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def outcome(main: Callable[[list[str] | None], None], *arguments: object) -> tuple[int, str]:
    """Exit code and standard error of a tool; what it lets escape escapes here too, and fails the test."""
    said = StringIO()
    with redirect_stdout(StringIO()), redirect_stderr(said):
        try:
            code = cli.call(main, [str(argument) for argument in arguments])
        except SystemExit as stopped:  # argparse
            code = int(stopped.code or 0)
    return code, said.getvalue()


def one_line(code: int, error: str) -> bool:
    """A result, or a fault said as the tools say one: its first line begins with error, no traceback."""
    return code == 0 if not error else code in (1, 2) and "Traceback" not in error and "error: " in error


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in nested settings."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*at, key))


def replaced(value: Any, at: tuple[Any, ...], by: Any) -> Any:
    """The same with another value at one place."""
    if not at:
        return by
    changed = copy.copy(value)
    changed[at[0]] = replaced(value[at[0]], at[1:], by)
    return changed


@st.composite
def damaged(draw: st.DrawFn, sound: Any) -> Any:
    """Sound settings with up to three values that are not."""
    for _ in range(draw(st.integers(0, 3))):
        sound = replaced(sound, draw(st.sampled_from(sorted(places(sound), key=repr))), draw(VALUES))
    return sound


@pytest.fixture(scope="module")
def dataset(dense_twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("faults"), dense_twin)


@made_up
@given(data=st.data())
def test_no_training_settings_end_a_plan_in_a_traceback(data: st.DataObject, dense_twin: Path, dataset: Path) -> None:
    config = dataset.parent / "train.yaml"
    found = data.draw(damaged({"base_model": str(dense_twin), **SETTINGS}))
    config.write_text(yaml.safe_dump(found, allow_unicode=False), encoding="utf-8")
    assert one_line(*outcome(train_final.main, dataset, "--config", config, "--out", dataset.parent / "run", "--plan"))


@made_up
@given(
    override=st.text(max_size=20) | st.builds("{}={}".format, st.sampled_from(sorted(SETTINGS)), st.text(max_size=12))
)
def test_no_override_ends_a_plan_in_a_traceback(override: str, dense_twin: Path, dataset: Path) -> None:
    config = dataset.parent / "sound.yaml"
    config.write_text(yaml.safe_dump({"base_model": str(dense_twin), **SETTINGS}), encoding="utf-8")
    run = dataset.parent / "run"
    assert one_line(
        *outcome(train_final.main, dataset, "--config", config, "--out", run, "--plan", f"--set={override}")
    )


ROW = {
    "messages": [{"role": "user", "content": "血压150/95?"}, {"role": "assistant", "content": "1级高血压。"}],
    "dim": "accuracy",
    "label": 1,
    "spans": [{"start": 0, "end": 2, "weight": -1.0}],
    "checks": [{"kind": "figure", "args": {"value": "150"}}],
    "images": [],
}
ROWS = [
    ROW,
    {"instruction": "问", "input": "", "output": "答", "history": [["a", "b"]]},
    {"conversations": [{"from": "human", "value": "<image>看"}, {"from": "gpt", "value": "好"}], "images": ["a.png"]},
    {"prompt": "问", "chosen": "好", "rejected": "坏"},
]


@made_up
@given(data=st.data())
def test_every_row_is_one_record_or_more_or_one_rejection(
    data: st.DataObject, demo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    sound = data.draw(st.sampled_from(ROWS))
    rows = [sound] * 25 + [data.draw(damaged(sound)) for _ in range(data.draw(st.integers(1, 3)))]
    text = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
    (folder / "raw.jsonl").write_text(text, encoding="utf-8")
    (folder / "data.yaml").write_text(yaml.safe_dump({"tokenizer": str(demo_model), **DATA, "dedup": "off"}))
    out = folder / "out"
    code, error = outcome(prepare_data.main, folder / "raw.jsonl", "--config", folder / "data.yaml", "--out", out)
    assert one_line(code, error)
    if code == 0:
        kept = [json.loads(line) for name in ("train", "valid", "test") for line in (out / f"{name}.jsonl").open()]
        lost = [json.loads(line) for line in (out / "rejected.jsonl").open()]
        told = json.loads((out / "manifest.json").read_text())["results"]["rejected"]["total"]
        assert told == len(lost) and len(kept) + len(lost) >= len(rows)


FILES = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json", "tokenizer.json")


@pytest.fixture(scope="module")
def finished(dense_twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a base model, a run on it, and a config each."""
    folder = tmp_path_factory.mktemp("hostile")
    base = shutil.copytree(dense_twin, folder / "base")
    write_run(folder / "run", base)
    train = {"base_model": str(base), **SETTINGS}
    (folder / "train.yaml").write_text(yaml.safe_dump(train), encoding="utf-8")
    gate = {"accuracy": -1.0, "warmth": -1.0, "vision": -1.0, "superior": 0, "pass_rate": {}}
    ask = {"bench": "none", "max_tokens": 2, "batch_size": 1, "max_items": 1, "seed": 0, "gate": gate}
    (folder / "eval.yaml").write_text(yaml.safe_dump(ask), encoding="utf-8")
    (folder / "data.yaml").write_text(yaml.safe_dump({"tokenizer": str(base), **DATA}), encoding="utf-8")
    (folder / "rows.jsonl").write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    return folder


def every_tool(folder: Path) -> Iterator[tuple[int, str]]:
    """What each tool that opens a model folder makes of ``folder/base``."""
    base, run, out = folder / "base", folder / "run", folder / "out"
    yield outcome(prepare_data.main, folder / "rows.jsonl", "--config", folder / "data.yaml", "--out", out)
    yield outcome(
        train_final.main, folder / "data", "--config", folder / "train.yaml", "--out", folder / "new", "--plan"
    )
    yield outcome(test_v2_model.main, run, "--config", folder / "eval.yaml", "--prompt", "你好")
    yield outcome(deploy_to_lmstudio.main, run, "--config", run / "deploy.yaml", "--dry-run")
    yield outcome(import_adapter.main, run, "--base", base, "--out", folder / "imported")
    yield outcome(inspect_model.main, base)
    for made in (out, folder / "imported"):
        shutil.rmtree(made, ignore_errors=True)


@made_up
@given(data=st.data())
def test_no_json_of_a_model_folder_ends_a_tool_in_a_traceback(
    data: st.DataObject, finished: Path, dense_twin: Path
) -> None:
    name = data.draw(st.sampled_from(FILES))
    target, sound = finished / "base" / name, dense_twin / name
    if not sound.exists():
        return
    if name == "tokenizer.json" or data.draw(st.booleans()):
        raw = bytearray(sound.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        target.write_bytes(raw)
    else:
        target.write_text(
            json.dumps(data.draw(damaged(json.loads(sound.read_text(encoding="utf-8"))))), encoding="utf-8"
        )
    try:
        assert all(one_line(code, error) for code, error in every_tool(finished))
    finally:
        shutil.copyfile(sound, target)


@made_up
@given(data=st.data())
def test_no_bytes_of_a_header_end_a_tool_in_a_traceback(data: st.DataObject, finished: Path, dense_twin: Path) -> None:
    target, sound = finished / "base/model.safetensors", dense_twin / "model.safetensors"
    raw = bytearray(sound.read_bytes())
    header = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    target.write_bytes(raw)
    try:
        assert all(one_line(code, error) for code, error in every_tool(finished))
    finally:
        shutil.copyfile(sound, target)


def test_the_cases_are_not_all_refused_and_not_all_taken(dense_twin: Path, dataset: Path) -> None:
    """Cases that are all alike would prove nothing: some settings are still sound, most are not."""
    codes: Counter[int] = Counter()

    @settings(made_up, max_examples=60)
    @given(found=damaged({"base_model": str(dense_twin), **SETTINGS}))
    def count(found: Any) -> None:
        config = dataset.parent / "counted.yaml"
        config.write_text(yaml.safe_dump(found, allow_unicode=False), encoding="utf-8")
        codes[outcome(train_final.main, dataset, "--config", config, "--out", dataset.parent / "run", "--plan")[0]] += 1

    count()
    assert codes[0] and codes[1]
