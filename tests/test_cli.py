"""The edge of the tools: what a person can fix is one line and exit code 1, a bug keeps its traceback."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from medtune import cli, files
from medtune.errors import UserError
from medtune.model import runtime
from tests.workshop import write_dataset
from tools import monitor_training, prepare_data

Capture = pytest.CaptureFixture[str]


def one_line(capsys: Capture) -> str:
    """What was said of an error: one line, no traceback."""
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("place", ["file", "file/data"])
def test_a_file_where_the_data_set_is_to_be_is_one_line(
    place: str, tmp_path: Path, dense_twin: Path, capsys: Capture
) -> None:
    raw = write_dataset(tmp_path, dense_twin, count=8, images=False).parent / "raw"
    (tmp_path / "file").touch()
    capsys.readouterr()
    arguments = [str(raw / "records.jsonl"), "--config", str(raw / "data.yaml"), "--out", str(tmp_path / place)]
    assert cli.call(prepare_data.main, arguments) == 1
    assert str(tmp_path / "file") in one_line(capsys)


def test_a_file_where_a_run_is_to_be_monitored_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "run").touch()
    assert cli.call(monitor_training.main, [str(tmp_path / "run"), "--once"]) == 1
    assert str(tmp_path / "run") in one_line(capsys)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOSPC])
def test_what_the_system_says_of_a_file_is_one_line_that_names_it(code: int, tmp_path: Path, capsys: Capture) -> None:
    def main(argv: list[str] | None) -> None:
        raise OSError(code, os.strerror(code), tmp_path / "a")

    assert cli.call(main) == 1
    assert one_line(capsys) == f"error: {tmp_path / 'a'}: {os.strerror(code)}\n"


def test_of_two_files_the_target_is_named(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "target").mkdir()
    assert cli.call(lambda argv: files.write_text(tmp_path / "target", "x")) == 1
    assert one_line(capsys).startswith(f"error: {tmp_path / 'target'}: ")


def test_a_full_disk_is_one_line_although_the_system_names_no_file(capsys: Capture) -> None:
    def main(argv: list[str] | None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert cli.call(main) == 1
    assert "No space left" in one_line(capsys)


@pytest.mark.parametrize("bug", [OSError("no file"), OSError(errno.EBADF, "bad", 7), BrokenPipeError(32, "pipe")])
def test_an_error_of_no_file_keeps_its_traceback(bug: OSError) -> None:
    def main(argv: list[str] | None) -> None:
        raise bug

    with pytest.raises(type(bug)):
        cli.call(main)


@pytest.mark.model("imports the libraries")
def test_a_library_that_fails_with_anything_while_it_is_imported_is_named_with_its_pin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = importlib.import_module

    def broken(name: str) -> object:
        if name.startswith("mlx_vlm"):
            raise AttributeError("module 'mlx.core' has no attribute 'new'")
        return honest(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(UserError, match=r"mlx_vlm\.utils\.load_model.*'mlx-vlm==") as error:
        runtime.probe()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"), [("好".encode("gb18030"), "not UTF-8"), (b"[1]", "not a JSON object"), (b"{", "not JSON")]
)
def test_a_line_that_is_no_object_is_named_with_its_number(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + content + b"\n")
    with pytest.raises(UserError, match=rf"rows\.jsonl:3: {said}"):
        list(files.read_jsonl(path))


def test_a_json_file_in_another_encoding_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"a": "好"}'.encode("gb18030"))
    with pytest.raises(UserError, match=r"a\.json: not UTF-8"):
        files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("template", [b"{% for message in messages %}{{ message", "{# 好 #}".encode("gb18030")])
def test_a_broken_chat_template_is_one_line_that_says_where_it_is(
    template: bytes, tmp_path: Path, dense_twin: Path, capsys: Capture
) -> None:
    raw = write_dataset(tmp_path, dense_twin, count=8, images=False).parent / "raw"
    model = shutil.copytree(dense_twin, tmp_path / "model")
    (model / "chat_template.jinja").write_bytes(template)
    capsys.readouterr()
    arguments = [str(raw / "records.jsonl"), "--config", str(raw / "data.yaml"), "--out", str(tmp_path / "new")]
    assert cli.call(prepare_data.main, [*arguments, "--set", f"tokenizer={model}"]) == 1
    assert one_line(capsys).startswith(f"error: {model}")


def test_what_a_tool_writes_is_for_its_owner_alone_whoever_writes_it(tmp_path: Path) -> None:
    def main(argv: list[str] | None) -> None:
        files.write_text(tmp_path / "made" / "rejected.jsonl", "{}")
        subprocess.run(["sh", "-c", f"mkdir '{tmp_path}/child' && echo x > '{tmp_path}/child/file'"], check=True)

    before = os.umask(0o022)
    try:
        assert cli.call(main) == 0
        (tmp_path / "afterwards").touch()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"made": 0o700, "rejected.jsonl": 0o600, "child": 0o700, "file": 0o600, "afterwards": 0o644}
