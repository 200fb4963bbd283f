"""Settings are read strictly: every problem is named at once, with its line, and none of them is a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from medtune import config
from medtune.config import errors as config_errors
from medtune.errors import UserError
from medtune.schemas import DataConfig, DeployConfig, EvalConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "configs" / "demo" / "train.yaml"
EVAL = ROOT / "configs" / "demo" / "eval.yaml"


def edited(tmp_path: Path, *changes: tuple[str, str], source: Path = TRAIN) -> Path:
    text = source.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / source.name
    path.write_text(text, encoding="utf-8")
    return path


def test_all_problems_are_named_at_once_each_with_its_line(tmp_path: Path) -> None:
    path = edited(tmp_path, ("iters:", "itrs:"), ("batch_size: 8", "batch_size: 8.5"), ("3.0e-3", "3e-3"))
    with pytest.raises(UserError) as error:
        config.load(TrainConfig, path)
    said = str(error.value)
    assert "line 4: itrs: no such key; did you mean iters?" in said
    assert "batch_size: 8.5" in said and "'3e-3' is text to YAML; write 3.0e-3" in said


def test_weight_decay_that_adam_would_ignore_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="adam has no weight_decay"):
        config.load(TrainConfig, TRAIN, ["optimizer.name=adam"])
    assert config.load(TrainConfig, TRAIN, ["optimizer.name=adam", "optimizer.weight_decay=0.0"])


def test_a_gate_cannot_ask_for_a_check_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)emergancy.*no such check; there are .*emergency"):
        config.load(EvalConfig, edited(tmp_path, ("pass_rate: {}", "pass_rate: {emergancy: 1.0}"), source=EVAL))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seed: 种子\n".encode("gb18030"), "not UTF-8"),
        (b"seed: 1\nname: a\x07b\n", "train.yaml:2: not YAML"),
        (b"seed: [1\n", "not YAML"),
        (b"", "expected keys and values"),
    ],
)
def test_a_file_that_is_no_yaml_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "train.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        config.load(TrainConfig, path)
    assert "\n" not in str(error.value)


def test_a_folder_in_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        config.load(TrainConfig, tmp_path)


@pytest.mark.parametrize("override", ["seed=-1", f"seed={2**32}", "seed=2020-13-45", "seed=0x_", "lora.keys=[]",
                                      "optimizer.learning_rate=.inf", "lora.alpha=.nan"])  # fmt: skip
def test_a_setting_that_would_fail_later_is_refused_at_once(override: str) -> None:
    with pytest.raises(UserError, match=rf"--set {re.escape(override)}: ") as error:
        config.load(TrainConfig, TRAIN, [override])
    assert "\n" not in str(error.value)


def test_a_gate_asks_for_a_number(tmp_path: Path) -> None:
    for text in (".nan", "-.inf"):
        with pytest.raises(UserError, match=r"gate\.accuracy: .*finite"):
            config.load(EvalConfig, EVAL, [f"gate.accuracy={text}"])


def test_keys_that_are_written_twice_are_named_with_both_lines(tmp_path: Path) -> None:
    path = edited(tmp_path, ("seed:", "iters: 9\nseed:"), ("    accuracy:", "    vision: {weight: 1.0}\n    accuracy:"))
    with pytest.raises(UserError) as error:
        config.load(TrainConfig, path)
    places: dict[str, list[int]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        places.setdefault(line.partition(":")[0].strip(), []).append(number)
    for name, key in (("iters", "iters"), ("objective.priorities.vision", "vision")):
        line, again = places[key]
        assert f"line {again}: {name}: stands on line {line} too; keep one" in str(error.value)
    assert "2 problems" in str(error.value)


def test_of_a_mapping_that_is_written_twice_its_own_key_alone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*: line \d+: lora: stands on line 3 too; keep one$"):
        config.load(TrainConfig, edited(tmp_path, ("seed:", "lora: {rank: 1, alpha: 2}\nseed:")))


def refusal(*overrides: str, path: Path = TRAIN) -> str:
    with pytest.raises(UserError) as error:
        config.load(TrainConfig, path, overrides)
    return str(error.value)


def test_a_key_of_another_schedule_is_named_with_the_schedule_that_lacks_it() -> None:
    assert "lr_schedule.final: constant has no such key" in refusal("lr_schedule.name=constant")
    said = refusal("lr_schedule={name: constant, warmpu: 3}")
    assert said.endswith("lr_schedule.warmpu: constant has no such key; did you mean warmup?")


def test_a_rule_about_several_keys_is_the_sentence_alone() -> None:
    said = refusal("batch_size=6", "grad_accumulation_steps=4")
    assert said == f"{TRAIN}: batch_size must be a multiple of grad_accumulation_steps"
    assert "optimizer: adam has no weight_decay" in refusal("optimizer.name=adam")


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("iters=1e3", "'1e3' is text to YAML; write 1000"),
        ("iters=1.0e+3", "1000.0: write 1000"),
        ("optimizer.learning_rate=1e3", "'1e3' is text to YAML; write 1.0e+3"),
        ("iters=1e-3", "'1e-3': must be a whole number"),
        ("optimizer.learning_rate=1.2.3", "'1.2.3': must be a number"),
    ],
)
def test_a_number_is_advised_as_its_key_takes_it(override: str, advice: str) -> None:
    assert refusal(override).endswith(advice)


@pytest.mark.parametrize("override", ["sources=[a]", "sources.0.path=x", "sorces.x=1"])
def test_a_problem_that_an_override_brings_is_its_own(override: str) -> None:
    with pytest.raises(UserError) as error:
        config.load(DataConfig, ROOT / "configs" / "demo" / "data.yaml", [override])
    assert f"--set {override}: " in str(error.value) and "line " not in str(error.value)


WRONG = ["null", "true", "word", "-7", "7.5", ".nan", "[]", "[{}]", "{1: 2}", "{a: 1}", '"\\ud800"']
MODELS = {DataConfig: "data", TrainConfig: "train", EvalConfig: "eval", DeployConfig: "deploy"}


def spots(schema: type[BaseModel]) -> Iterator[str]:
    """``key=VALUE`` of every key of a schema and of the schemas in it, VALUE where the value goes."""
    for name, field in schema.model_fields.items():
        yield f"{name}=VALUE"
        shape = str(field.annotation)
        for inner in config_errors.models_in(field.annotation):
            for spot in spots(inner):
                key, value = spot.split("=", 1)
                if shape.startswith("list["):
                    yield f"{name}=[{{{key}: {value}}}]"
                elif shape.startswith("dict["):
                    yield f"{name}={{accuracy: {{{key}: {value}}}, wormth: {{}}}}"
                else:
                    yield f"{name}.{spot}"


@pytest.fixture(scope="module")
def refused() -> Iterator[tuple[dict[str, str], set[str]]]:
    """What is said in Chinese of every wrong value, by override; and the kinds of error that were met."""
    said: dict[str, str] = {}
    kinds: set[str] = set()
    sentence = config_errors._said

    def noting(kind: str, item: Any) -> str:
        kinds.add(kind)
        return sentence(kind, item)

    parsed = cache(config._parsed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "_parsed", lambda path: (parsed(path)[0], dict(parsed(path)[1])))
        patch.setenv("MEDTUNE_LANG", "zh")
        patch.setattr(config_errors, "_said", noting)
        for schema, stage in MODELS.items():
            for override in (spot.replace("VALUE", value) for spot in [*spots(schema), "VALUE"] for value in WRONG):
                try:
                    config.load(schema, ROOT / "configs" / "demo" / f"{stage}.yaml", [override])
                except UserError as error:
                    said[override] = str(error)
    yield said, kinds


def test_whatever_is_wrong_with_a_config_is_said_in_the_persons_language(
    refused: tuple[dict[str, str], set[str]],
) -> None:
    assert len(refused[0]) > 400
    english = re.compile(r"[A-Za-z]{2,} [A-Za-z]{2,}")  # keys and values are single words
    for override, text in refused[0].items():
        rest = text.replace(override, "")
        assert not english.search(rest), text
        assert re.search(r"[\u4e00-\u9fff]", rest), text


def test_every_kind_of_error_has_its_own_sentence_and_no_sentence_is_left_over(
    refused: tuple[dict[str, str], set[str]],
) -> None:
    assert refused[1] - {"value_error"} == set(config_errors.SENTENCES)


def test_a_line_and_an_unknown_key_are_named_in_the_persons_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDTUNE_LANG", "zh")
    assert "第 4 行: itrs: 没有这个键；是不是 iters？" in refusal(path=edited(tmp_path, ("iters:", "itrs:")))


def bomb(levels: int, copies: int) -> str:
    """Lists of aliases of lists of aliases."""
    lists = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * copies)}]" for n in range(1, levels)]
    return "\n".join(["a0: &a0 [x, x]", *lists])


HOSTILE = {
    "aliases": bomb(20, 10),
    "aliases of maps": "a: &a {b: 1}\n" + "\n".join(f"c{n}: &c{n} {{x: *a, y: *a}}" for n in range(9000)),
    "within itself": "a: &a [*a]",
    "key within itself": "a: &a\n  b: *a",
    "deep": "[" * 5000,
    "deep and closed": "[" * 100 + "]" * 100,
    "deep maps": "{a: " * 500 + "}" * 500,
    "long number": "iters: " + "9" * 5000,
    "long hex": "iters: 0x" + "f" * 50_000,
    "sixties": "iters: " + ":".join(["59"] * 400) + ".5",
    "python": "!!python/object/apply:os.system ['true']",
    "no integer": "iters: !!int ''",
    "no boolean": "iters: !!bool maybe",
    "no binary": "iters: !!binary '@'",
    "merge": "<<: [1, 2]",
    "megabytes": "a: " + "x" * 2**21,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_yaml_that_unfolds_without_end_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(HOSTILE[name], encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.yaml"):
        config.load(TrainConfig, path)
    with pytest.raises(UserError, match="iters="):
        config.load(TrainConfig, TRAIN, ["iters=" + HOSTILE[name]])


def test_an_alias_that_unfolds_to_little_is_read(tmp_path: Path) -> None:
    path = edited(
        tmp_path, ("batch_size: 8", "batch_size: &eight 8"), ("steps_per_report: ", "steps_per_report: *eight # ")
    )
    assert config.load(TrainConfig, path).steps_per_report == 8


@pytest.mark.parametrize("place", ["/dev/zero", "pipe"])
def test_a_config_is_a_file(place: str, tmp_path: Path) -> None:
    import os

    path = Path(place) if place.startswith("/") else tmp_path / place
    if path.parent == tmp_path:
        os.mkfifo(path)
    with pytest.raises(UserError, match="a pipe or a device"):
        config.load(TrainConfig, path)
