"""The first and last moments of a tool: Ctrl-C at any of them, closed or narrow streams, few files, no memory."""

from __future__ import annotations

import ast
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medtune import cli
from medtune.data import sources
from medtune.errors import UserError
from medtune.images import bytes_of
from medtune.schemas import Source

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "MEDTUNE_LANG": "zh", "PYTHONPATH": str(ROOT / "lib")}


def prepare(out: Path) -> list[str]:
    model = f"tokenizer={ROOT / 'data/demo/model'}"
    raw, config = ROOT / "data/raw/demo", ROOT / "configs/demo/data.yaml"
    return [
        sys.executable,
        "tools/prepare_data.py",
        str(raw),
        "--config",
        str(config),
        "--set",
        model,
        "--out",
        str(out),
    ]


def test_every_tool_can_be_stopped_before_it_imports_what_takes_time() -> None:
    for path in ROOT.glob("tools/*.py"):
        imports = [
            node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        first, second = imports[:2]
        assert isinstance(first, ast.ImportFrom) and first.module == "__future__", path
        assert isinstance(second, ast.Import) and second.names[0].name == "medtune.start", path


STOPPED = ((130, "已停止\n"), (-signal.SIGINT, ""))  # the second: before Python itself listens


def stopped_after(seconds: float, command: list[str]) -> tuple[int, str]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where the tests run in the background
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    return process.returncode, said.decode()


@pytest.mark.model("imports the libraries in a process of its own")
@pytest.mark.parametrize("moment", [0.15, 0.4, 0.8, 1.5])
def test_ctrl_c_in_the_first_seconds_is_one_line(moment: float, tmp_path: Path) -> None:
    assert stopped_after(moment, prepare(tmp_path / "out")) in STOPPED


@pytest.mark.slow("a dozen starts")
def test_ctrl_c_at_twelve_moments_is_one_line(tmp_path: Path) -> None:
    found = [stopped_after(0.1 + 0.2 * n, prepare(tmp_path / str(n))) for n in range(12)]
    assert [pair for pair in found if pair not in (*STOPPED, (0, ""))] == []


def report(arguments: list[str], **how: object) -> subprocess.CompletedProcess[bytes]:
    """A tool that needs no model: it says that there is no run."""
    command = [sys.executable, "tools/make_report.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, timeout=60, **how)  # type: ignore[call-overload]


def test_closed_streams_are_no_traceback(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    script = f'"$@" >&- 2>&- <&-; echo $? > {marks}'
    command = [sys.executable, "tools/make_report.py", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    subprocess.run(["/bin/sh", "-c", script, "sh", *command], cwd=ROOT, env=ENVIRONMENT, timeout=60)
    assert marks.read_text().strip() == "1"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_full_output_is_no_traceback() -> None:
    with open("/dev/full", "w") as full:
        done = report(["--help"], stdout=full, stderr=subprocess.PIPE)
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_what_a_narrow_terminal_cannot_write_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, "PYTHONIOENCODING", "ascii")
    done = report([str(tmp_path / "没有"), "--out", str(tmp_path / "out")], stdout=-1, stderr=-1)
    said = done.stderr.decode("ascii")
    assert done.returncode == 1 and said.startswith("error: ") and "\\u" in said and "Traceback" not in said


@pytest.mark.model("imports the libraries in a process of its own")
def test_few_files_are_said_to_be_few_and_no_library_is_called_broken(tmp_path: Path) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    done = subprocess.run(
        prepare(tmp_path / "out"), cwd=ROOT, env=ENVIRONMENT, capture_output=True, preexec_fn=few, timeout=60
    )
    said = done.stderr.decode()
    assert done.returncode == 1 and said.count("\n") == 1 and "ulimit -n 1024" in said


OUT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("[malloc] Unable to allocate 9000000000 bytes."),
    RuntimeError(
        "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size"
    ),
    RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008)"),
    RuntimeError("cudaMallocAsync(&data, size) failed: out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_no_memory_anywhere_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str] | None) -> None:
        raise error

    assert cli.call(main, []) == 1
    assert capsys.readouterr().err.startswith("error: out of memory; ")


def test_another_runtime_error_is_a_bug() -> None:
    def main(argv: list[str] | None) -> None:
        raise RuntimeError("generator raised StopIteration")

    with pytest.raises(RuntimeError):
        cli.call(main, [])


def test_a_name_that_is_no_utf_8_is_said_as_an_escape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(lambda argv: None, ["a", "\udcff.jsonl"]) == 1
    assert "'\\udcff.jsonl'" in capsys.readouterr().err
    if sys.platform == "linux":  # a Mac's disk has no such names
        (tmp_path / "\udcff.jsonl").write_text("{}")
        with pytest.raises(UserError, match="no UTF-8"):
            sources.open_sources([Source(path=str(tmp_path))], tmp_path / "out")


READERS: dict[str, Callable[[Path], object]] = {
    "source": lambda path: sources.open_sources([Source(path=str(path))], path.parent / "out"),
    "image": bytes_of,
}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_not_waited_for(reader: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises((UserError, OSError)):
        READERS[reader](tmp_path / "a.jsonl")
