"""A chat template is tried in a process that is limited, whatever the process that asks for it has become."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medtune.errors import UserError
from medtune.model import templates
from tests.source import ROOT

HUGE = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}"
LARGE = """
from pathlib import Path
from medtune.model import templates
held = b"x" * (700 * 2**20)
with templates.tried("{{ messages[0].content }}", Path("model")):
    pass
"""


@pytest.mark.parametrize(
    "template", [HUGE, "{{ 'x' * 2**31 }}", "{% for m in range(99999) %}{{ 'x' * 9999 }}{% endfor %}"]
)
def test_a_template_without_an_end_is_one_line(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(templates.TRIED, "")
    with pytest.raises(UserError, match="more time or memory"), templates.tried(template, tmp_path):
        pass


@pytest.mark.skipif(sys.platform == "darwin", reason="the peak of a parent is inherited on Linux")
def test_a_template_is_not_refused_since_the_process_that_asks_is_large() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), templates.TRIED: ""}
    subprocess.run([sys.executable, "-c", LARGE], check=True, env=environment)
