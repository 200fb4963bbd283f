"""Putting a folder in place: whatever happens, one complete version is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medtune import files
from medtune.deployment import disk, transaction
from medtune.deployment.transaction import Place
from medtune.errors import UserError

PARTS = 3


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "models", "medtune", "small-v2")


def _deploy(place: Place, version: str) -> None:
    with transaction.locked(place), transaction.staging(place, 1):
        for part in range(PARTS):
            (place.incoming / f"part-{part}").write_text(version)
        transaction.commit(place)


def _version(folder: Path) -> str | None:
    """The version in ``folder``; an assertion when it is a mixture or incomplete."""
    if not folder.exists():
        return None
    found = [path.read_text() for path in sorted(folder.iterdir())]
    assert len(found) == PARTS and len(set(found)) == 1, found
    return found[0]


def _visible(place: Place) -> list[Path]:
    """What LM Studio sees: folders exactly two levels down with files in them."""
    return [path for path in place.models.glob("*/*") if path.is_dir() and any(p.is_file() for p in path.iterdir())]


def test_a_second_version_replaces_the_first_and_keeps_it(place: Place) -> None:
    _deploy(place, "one")
    assert _version(place.folder) == "one" and not place.previous.exists()
    _deploy(place, "two")
    _deploy(place, "three")
    assert (_version(place.folder), _version(place.previous)) == ("three", "two")
    assert not place.incoming.exists() and not place.swap.exists()


def test_rolling_back_twice_changes_nothing(place: Place) -> None:
    _deploy(place, "one")
    _deploy(place, "two")
    for expected in ("one", "two"):
        with transaction.locked(place):
            transaction.rollback(place)
        assert _version(place.folder) == expected
    assert _version(place.previous) == "one"


def test_without_a_previous_version_a_rollback_is_refused(place: Place) -> None:
    _deploy(place, "one")
    with transaction.locked(place), pytest.raises(UserError, match="no previous version"):
        transaction.rollback(place)
    assert _version(place.folder) == "one"


def test_undeploying_leaves_no_trace(place: Place) -> None:
    _deploy(place, "one")
    _deploy(place, "two")
    with transaction.locked(place):
        transaction.undeploy(place)
    assert list(place.models.iterdir()) == []


def test_a_version_found_wanting_afterwards_gives_way_to_the_one_before(place: Place) -> None:
    _deploy(place, "one")
    _deploy(place, "two")
    with transaction.locked(place):
        transaction.withdraw(place)
    assert _version(place.folder) == "one" and not place.previous.exists()
    with transaction.locked(place):
        transaction.withdraw(place)
    assert not place.folder.exists()


def test_a_folder_of_somebody_else_is_neither_replaced_nor_removed(place: Place) -> None:
    place.folder.mkdir(parents=True)
    (place.folder / "model.safetensors").write_text("theirs")
    with pytest.raises(UserError, match="not deployed by medtune; choose another name"):
        _deploy(place, "one")
    with transaction.locked(place), pytest.raises(UserError, match="nothing was removed"):
        transaction.undeploy(place)
    assert (place.folder / "model.safetensors").read_text() == "theirs"


@pytest.mark.parametrize("other", ["medtune/Small-V2", "MedTune/small-v2"])
def test_a_name_that_is_there_in_another_case_is_neither_replaced_nor_removed(place: Place, other: str) -> None:
    theirs = place.models / other
    theirs.mkdir(parents=True)
    (theirs / "model.safetensors").write_text("theirs")
    with pytest.raises(UserError, match=f"is there as {other}, which differs only in upper and lower case"):
        _deploy(place, "one")
    with pytest.raises(UserError, match="differs only"), transaction.locked(place):
        pytest.fail("it was let in")
    assert [path for path in place.models.rglob("*") if path.is_file()] == [theirs / "model.safetensors"]


def test_what_we_deployed_stays_ours_whatever_stands_beside_it_in_another_case(place: Place) -> None:
    _deploy(place, "one")
    beside = place.folder.with_name("Small-V2")
    if beside.exists():
        pytest.skip("a file system that tells no case")
    beside.mkdir()
    _deploy(place, "two")
    with transaction.locked(place):
        transaction.undeploy(place)
    assert list(place.folder.parent.iterdir()) == [beside]


def test_a_record_of_another_spelling_makes_no_folder_ours(place: Place) -> None:
    """A file system without case finds the record of `Small-V2` under `small-v2` as well."""
    _deploy(place, "one")
    files.write_json(place.ours, {"folder": str(place.folder.with_name("Small-V2"))})
    with pytest.raises(UserError, match="was not deployed by medtune"):
        _deploy(place, "two")
    with transaction.locked(place), pytest.raises(UserError, match="nothing was removed"):
        transaction.undeploy(place)
    assert _version(place.folder) == "one"


def test_a_second_deploy_at_once_is_refused(place: Place) -> None:
    with transaction.locked(place), pytest.raises(UserError, match="another deploy is under way"):
        _deploy(place, "one")


def test_a_disk_without_room_is_named_before_anything_is_written(place: Place) -> None:
    refused = pytest.raises(UserError, match=r"1048576\.0 GiB needed")
    with transaction.locked(place), refused, transaction.staging(place, 2**50):
        pytest.fail("there is no such disk")
    assert not place.incoming.exists()


def test_a_failure_while_staging_leaves_the_old_version(place: Place) -> None:
    _deploy(place, "one")
    with pytest.raises(UserError, match="proof"), transaction.locked(place), transaction.staging(place, 1):
        (place.incoming / "part-0").write_text("two")
        raise UserError("proof")
    assert _version(place.folder) == "one" and not place.incoming.exists()


class Killed(BaseException):
    """The process is gone: nothing of it runs any more, not even its clean-up."""


def _steps() -> list[tuple[Any, str]]:
    """Every call by which the transaction changes the disk."""
    return [
        (os, "rename"), (os, "replace"), (shutil, "rmtree"), (disk, "exchange"), (disk, "sync"),
        (Path, "mkdir"), (Path, "unlink"), (Path, "rmdir"), (Path, "write_text"),
    ]  # fmt: skip


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Arm a death at the n-th change of the disk: that one and every later one raises."""
    count = {"left": 10**9}

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            count["left"] -= 1
            if count["left"] < 0:
                raise Killed
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, step)

    for owner, name in _steps():
        wrap(owner, name)

    def arm(steps: int) -> None:
        count["left"] = steps

    yield arm
    count["left"] = 10**9


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("before", [[], ["one"], ["zero", "one"]])
def test_a_deploy_killed_at_any_step_leaves_one_complete_version(
    tmp_path: Path, die_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, exchange: bool, before: list[str]
) -> None:
    if not exchange:
        monkeypatch.setattr(disk, "exchange", lambda a, b: False)
    for steps in range(200):
        place = Place(tmp_path / f"at-{steps}", "medtune", "small-v2")
        for version in before:
            _deploy(place, version)
        die_at(steps)
        try:
            _deploy(place, "new")
            finished = True
        except Killed:
            finished = False
        die_at(10**9)
        if exchange:  # without it, the target is missing between two renames until the next deploy puts it right
            assert _version(place.folder) in {(before or [None])[-1], "new"}
            assert len(_visible(place)) == (1 if place.folder.exists() else 0)
        with transaction.locked(place):
            seen = _version(place.folder)
        assert seen in {(before or [None])[-1], "new"}
        if place.previous.exists():
            assert _version(place.previous) in {"zero", "one"} - {seen}
        _deploy(place, "next")
        assert _version(place.folder) == "next"
        if finished:
            assert steps > 5
            return
    pytest.fail("it never came to an end")


@pytest.mark.parametrize("exchange", [True, False])
def test_a_rollback_killed_at_any_step_loses_no_version(
    tmp_path: Path, die_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(disk, "exchange", lambda a, b: False)
    for steps in range(200):
        place = Place(tmp_path / f"at-{steps}", "medtune", "small-v2")
        _deploy(place, "one")
        _deploy(place, "two")
        die_at(steps)
        try:
            with transaction.locked(place):
                transaction.rollback(place)
            finished = True
        except Killed:
            finished = False
        die_at(10**9)
        with transaction.locked(place):
            assert {_version(place.folder), _version(place.previous)} == {"one", "two"}
        if finished:
            return


def test_what_a_killed_deploy_left_is_cleaned_by_the_next(place: Place) -> None:
    _deploy(place, "one")
    place.incoming.mkdir()
    (place.incoming / "part-0").write_text("half")
    place.trash.mkdir()
    _deploy(place, "two")
    assert {path.name for path in place.work.iterdir()} == {"lock", "previous", "deployed.json"}
    assert files.read_json(place.ours)["folder"] == str(place.folder)
