"""A disk that is full, or may only be read: one line that names the file, and with room everything goes on."""

from __future__ import annotations

import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import pytest

from medtune import cli, files
from medtune.demo.random_model import write_twin
from medtune.files import folders
from medtune.model import arrays
from medtune.model.architecture import Architecture
from medtune.model.base import Base
from medtune.model.renderer import Example, Renderer
from medtune.training import job
from medtune.training.activations import Store
from medtune.training.trunk import Trunk
from tests.workshop import question, settings_file, write_dataset
from tools import deploy_to_lmstudio, prepare_data, test_v2_model, train_final

ROOT = Path(__file__).resolve().parents[1]
Capture = pytest.CaptureFixture[str]
EVAL = """{bench: ROOT/data/bench, max_tokens: 2, batch_size: 8, max_items: 2, seed: 0,
  gate: {accuracy: -1.0, warmth: -1.0, vision: -1.0, superior: 0, pass_rate: {}}}"""
DEPLOY = """{publisher: medtune, name: tiny, precision: bf16, system_prompt: training, home: ""}"""


@contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A small disk at ``folder``; yields what mounts it again otherwise (`ro`, `size=8m`)."""

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        return subprocess.run(command, capture_output=True).returncode == 0

    folder.mkdir()
    if not mount(f"size={kilobytes}k"):
        pytest.skip("no disk can be mounted here")
    try:
        yield lambda options: pytest.fail(options) if not mount(f"remount,{options}") else None
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a data set, and settings for it."""
    folder = tmp_path_factory.mktemp("place")
    model = write_twin(folder / "model", moe=False)
    write_dataset(folder, model)
    settings_file(folder / "train.yaml", model)
    (folder / "eval.yaml").write_text(EVAL.replace("ROOT", str(ROOT)))
    (folder / "deploy.yaml").write_text(DEPLOY)
    return folder


def train(place: Path, run: Path, cache: Path, *extra: str) -> list[str]:
    told = ["--config", str(place / "train.yaml"), "--out", str(run), "--cache", str(cache), *extra]
    return [str(place / "dataset"), *told]


def prepare(place: Path, data: Path, *extra: str) -> list[str]:
    raw = place / "raw"
    return [str(raw / "records.jsonl"), "--config", str(raw / "data.yaml"), "--out", str(data), *extra]


def one_line(capsys: Capture, disk: Path) -> str:
    """What was said: one line that names what is on the full disk."""
    said = capsys.readouterr().err
    assert said.startswith(f"error: {disk}") and said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("kilobytes", [4, 12, 20, 40, 60, 120, 160])
def test_a_run_on_a_full_disk_is_one_line_and_goes_on_when_there_is_room(
    place: Path, tmp_path: Path, capsys: Capture, kilobytes: int
) -> None:
    with mounted(tmp_path / "disk", kilobytes) as again:
        call = train(place, tmp_path / "disk/run", place / "trunk")
        assert cli.call(train_final.main, call) == 1
        one_line(capsys, tmp_path / "disk/run")
        again("size=8m")
        assert cli.call(train_final.main, call) == 0
        assert not list((tmp_path / "disk/run").glob(".partial*"))


@pytest.mark.parametrize("kilobytes", [4, 16, 60, 120])
def test_a_data_set_on_a_full_disk_is_one_line_and_is_prepared_when_there_is_room(
    place: Path, tmp_path: Path, capsys: Capture, kilobytes: int
) -> None:
    with mounted(tmp_path / "disk", kilobytes) as again:
        assert cli.call(prepare_data.main, prepare(place, tmp_path / "disk/data")) == 1
        one_line(capsys, tmp_path / "disk/data")
        again("size=8m")
        assert cli.call(prepare_data.main, prepare(place, tmp_path / "disk/data")) == 0


@pytest.mark.parametrize("kilobytes", [8, 100, 300, 500])
def test_a_disk_that_fills_while_the_trunk_is_cached_is_one_line_and_no_signal(
    place: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, kilobytes: int
) -> None:
    monkeypatch.setattr(folders, "free_bytes", lambda folder: 2**40)  # others fill it after we looked
    call = train(place, tmp_path / "run", tmp_path / "disk/trunk", "--set", "trunk_cache=on")
    with mounted(tmp_path / "disk", kilobytes) as again:
        assert cli.call(train_final.main, call) == 1
        assert "No space left" in one_line(capsys, tmp_path / "disk/trunk")
        again("size=8m")
        assert cli.call(train_final.main, call) == 0


def test_what_is_done_already_needs_no_right_to_write(place: Path, tmp_path: Path, capsys: Capture) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, 200_000) as again:
        told = ["--config", str(place / "eval.yaml")]
        calls = {
            prepare_data.main: prepare(place, disk / "data"),
            train_final.main: train(place, disk / "run", place / "trunk"),
            test_v2_model.main: [str(disk / "run"), str(place / "dataset"), *told],
            deploy_to_lmstudio.main: [str(disk / "run"), "--config", str(place / "deploy.yaml")],
        }
        assert [cli.call(main, arguments) for main, arguments in calls.items()] == [0, 0, 0, 0]
        again("ro")
        for main, arguments in calls.items():
            capsys.readouterr()
            assert cli.call(main, arguments) == 0, capsys.readouterr().err
            assert "already done" in capsys.readouterr().out
        for main, change in ((prepare_data.main, "seed=1"), (test_v2_model.main, "max_tokens=3")):
            assert cli.call(main, [*calls[main], "--set", change]) == 1
            assert "Read-only" in one_line(capsys, disk)
        assert cli.call(test_v2_model.main, [str(disk / "run"), *told, "--prompt", "hi"]) == 0, "it only reads"


LIMITED = """
import resource, sys
from medtune import cli
from medtune.model import runtime; runtime.start()
from tools import train_final
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(cli.call(train_final.main, sys.argv[2:]))
"""


@pytest.mark.parametrize("most", [1, 3000, 20_000, 60_000])
def test_a_file_that_may_not_grow_so_large_is_one_line(place: Path, tmp_path: Path, most: int) -> None:
    call = train(place, tmp_path / "run", tmp_path / "trunk", "--set", "trunk_cache=on")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(most), *call], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {tmp_path}") and done.stderr.count("\n") == 1


def test_what_mlx_says_of_a_file_it_cannot_write_is_one_line_and_of_anything_else_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(cli.UserError, match=r"a\.safetensors: could not be written"):
            arrays.save(tmp_path / "a.safetensors", {"a": mx.zeros(1000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == [], "nothing half written is left"

    def fails(*args: object) -> None:
        raise RuntimeError("[eval] no such kernel")

    monkeypatch.setattr(mx, "save_safetensors", fails)
    with pytest.raises(RuntimeError, match="no such kernel"):
        arrays.save(tmp_path / "a.safetensors", {}, {})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_full_disk_is_named_by_the_file_that_was_being_written(code: int, tmp_path: Path, capsys: Capture) -> None:
    def main(argv: list[str] | None) -> None:
        with files.atomic(tmp_path / "a.json"):
            raise OSError(code, os.strerror(code))

    assert cli.call(main) == 1
    assert one_line(capsys, tmp_path / "a.json").endswith(f"{os.strerror(code)}\n")


def test_a_store_is_filled_to_the_same_bits_in_groups_of_layers_as_at_once(place: Path, tmp_path: Path) -> None:
    base = Base.find(str(place / "model"))
    renderer = Renderer(base)
    examples = list(_examples(renderer, tmp_path))
    read = []
    for group in (1, 3):
        architecture = Architecture.of(base.load())
        store: Store = job.open_store(tmp_path / f"trunk{group}", base, architecture, 3)
        store.fill(Trunk(architecture, renderer, 3), examples, group, lambda tokens: None)
        read.append(store.batch([example.key for example in examples], 128).to_mlx())
    assert mx.array_equal(read[0].h, read[1].h) and mx.array_equal(read[0].positions, read[1].positions)


def _examples(renderer: Renderer, folder: Path) -> Iterator[Example]:
    (folder / "images").mkdir()
    for index in range(8):
        yield renderer.encode(question(index, random.Random(index), folder), folder)
