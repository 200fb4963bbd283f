"""Progress in a log is a dense line now and then, without a bar."""

from __future__ import annotations

import pytest

from medtune import progress


def test_a_log_gets_lines_only_after_some_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 20.0, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("prepare", 200, "B") as bar:
        for done, note in ((10, "few"), (100, "half"), (150, "more")):
            bar.update(done, note)
    shown = capsys.readouterr()
    assert shown.out == "prepare  50%  half\n" and shown.err == ""
