"""Settings are read strictly: every problem is named at once, with its line, and none of them is a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtune import config
from medtune.errors import UserError
from medtune.schemas import EvalConfig, TrainConfig

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
