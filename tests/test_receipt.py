"""A receipt says that a stage finished, and stops saying so when what it speaks of is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtune import files
from medtune.config import Strict
from medtune.errors import UserError
from medtune.receipt import AlreadyDone, Receipt, stage


class Settings(Strict):
    """Any settings."""

    size: int = 1


def run(folder: Path, *, text: str = "made", replace: bool = True, **changes: int) -> Receipt:
    settings = Settings(**changes)
    with stage(folder / "training.json", settings, inputs={"a": "x"}, replace=replace, redo="go on so") as done:
        files.write_text(folder / "made.txt", text)
        done.outputs = {"made.txt": files.sha256(folder / "made.txt")}
    return done


def test_a_finished_stage_is_not_repeated(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(AlreadyDone):
        run(tmp_path, text="again")
    assert (tmp_path / "made.txt").read_text() == "made"


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("by hand")])
def test_an_output_that_is_gone_or_was_changed_is_made_again(tmp_path: Path, spoil: object) -> None:
    run(tmp_path)
    assert callable(spoil)
    spoil(tmp_path / "made.txt")
    run(tmp_path)
    assert (tmp_path / "made.txt").read_text() == "made"


def test_a_run_that_must_not_be_replaced_names_its_changed_file_and_its_changed_key(tmp_path: Path) -> None:
    run(tmp_path, replace=False)
    with pytest.raises(UserError, match=r"other settings \(size\); go on so"):
        run(tmp_path, replace=False, size=2)
    (tmp_path / "made.txt").write_text("by hand")
    with pytest.raises(UserError, match=r"files are gone or changed \(made.txt\); go on so"):
        run(tmp_path, replace=False)
    assert (tmp_path / "made.txt").read_text() == "by hand", "nothing is lost"


def test_a_stage_that_failed_leaves_no_receipt(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ZeroDivisionError), stage(tmp_path / "training.json", Settings(size=3), inputs={}):
        raise ZeroDivisionError
    assert not (tmp_path / "training.json").exists()


def test_a_receipt_of_another_shape_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(json.dumps({"loss": 1.0}))
    with pytest.raises(UserError, match=r"training.json: not a receipt of medtune; .* `make train .*` again"):
        Receipt.read(tmp_path / "training.json")


HOME = "/Users/zhuge_kongming"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (f"{HOME}/run", "~/run"),
        (HOME, "~"),
        (f"cannot load {HOME}/a b/c: no such file", "cannot load ~/a b/c: no such file"),
        (f"'{HOME}/bin/lms' server start", "'~/bin/lms' server start"),
        (f"{HOME}2/run", f"{HOME}2/run"),
        (f"/Volumes/备份{HOME}/run", f"/Volumes/备份{HOME}/run"),
        (f"/Volumes/b{HOME}/run", f"/Volumes/b{HOME}/run"),
        ("data/processed/demo", "data/processed/demo"),
        ("血压150/95", "血压150/95"),
    ],
)
def test_a_receipt_holds_the_home_as_a_sign_and_gives_it_back(
    text: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", HOME)
    value = {"path": text, "list": [text, 3, None], text: {"in": text}}
    stored = files.without_home(value)
    assert stored == {"path": written, "list": [written, 3, None], written: {"in": written}}
    if written.startswith("~") or written == text:
        assert files.with_home(stored) == value


def test_a_run_of_before_with_whole_paths_is_still_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path, here = tmp_path / "training.json", {"made": files.hash_of(1), f"{tmp_path}/raw.jsonl": "1"}
    old = Receipt("training", Settings().model_dump(mode="json"), [], here, results={"folder": f"{tmp_path}/x"})
    (tmp_path / "weights").touch()
    old.outputs = {f"{tmp_path}/weights": files.sha256(tmp_path / "weights")}  # as a deploy names its files
    files.write_json(path, vars(old))
    assert Receipt.read(path).results["folder"] == f"{tmp_path}/x"
    with pytest.raises(AlreadyDone), stage(path, Settings(), inputs=here):
        pass
    Receipt.read(path).write(path)
    assert str(tmp_path) not in path.read_text()
    assert Receipt.read(path) == old
    with pytest.raises(AlreadyDone), stage(path, Settings(), inputs=here):
        pass


@pytest.mark.parametrize("home", ["/", ""])
def test_a_home_that_is_no_name_hides_nothing(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    assert files.without_home("/data/run") == "/data/run"
