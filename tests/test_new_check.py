"""Who adds a kind of check writes one file: nothing else has to know of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from medtune import checks
from medtune.evaluation import screen, summary
from medtune.i18n import Lang
from medtune.records import Check
from medtune.report import figures, markdown
from medtune.report.facts import gather
from tests import fakerun
from tests.test_report import edit
from tests.test_scoring import PRIORITIES, judged, settings

FILE = '''"""An answer that is not too long."""

NAME = {"en": "short enough", "zh": "篇幅适中"}


def check(answer: str, most: int) -> float:
    """1 when the answer has at most ``most`` characters, else 0."""
    return float(len(answer) <= most)
'''
NAMES: dict[Lang, str] = {"en": "short enough", "zh": "篇幅适中"}
CHECK = Check(kind="brief", args={"most": 4})


@pytest.fixture(autouse=True)
def _added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One more file among the checks."""
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / f"{CHECK.kind}.py").write_text(FILE, encoding="utf-8")
    caches = (checks.modules, checks.kinds)
    with monkeypatch.context() as patch:
        patch.setattr(checks, "__path__", [*checks.__path__, str(tmp_path / "checks")])
        for cache in caches:
            cache.cache_clear()
        yield
    for cache in caches:
        cache.cache_clear()
    sys.modules.pop(f"{checks.__name__}.{CHECK.kind}", None)
    vars(checks).pop(CHECK.kind, None)


def test_it_is_found_type_checked_scored_and_part_of_what_makes_an_evaluation_stale() -> None:
    assert checks.problems(CHECK) == []
    assert "brief.most" in checks.problems(Check(kind="brief", args={"most": "4"}))[0]
    assert (checks.score(CHECK, "请就诊"), checks.score(CHECK, "请到心内科就诊")) == (1, 0)
    [folder] = [folder for folder in checks.__path__ if (Path(folder) / "brief.py").exists()]
    before = checks.sources_hash()
    (Path(folder) / "brief.py").write_text(FILE + "\n", encoding="utf-8")
    assert checks.sources_hash() != before


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_gate_may_want_it_and_the_screen_names_it(
    tmp_path: Path, lang: Lang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDTUNE_LANG", lang)
    found = judged(tmp_path, [("请就诊", "请到心内科就诊")] * 3, checks=(CHECK,))
    shown = judged(tmp_path, [("请就诊", "请到心内科就诊")], checks=(CHECK, CHECK), split="recommended")
    console = Console(record=True, width=200)
    screen.show(summary.evaluate([*found, *shown], PRIORITIES, settings(pass_rate={"brief": 0.5})), console)
    lines = [line for line in console.export_text().splitlines() if NAMES[lang] in line]
    assert len(lines) == 3  # the table of checks, the recommended answer, the gate
    assert f"{NAMES[lang]}, {NAMES[lang]} (2)" in lines[1]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_report_names_it(tmp_path: Path, lang: Lang) -> None:
    run = fakerun.write_run(tmp_path)
    case = {"id": "x", "question": "?", "image": None, "expect": "", "baseline": "a", "tuned": "b",
            "checks": {"brief_2": {"baseline": 0.0, "tuned": 1.0}}}  # fmt: skip
    failure = {"kind": "pass_rate", "check": "brief", "passed": 1, "n": 9, "low": 0.0, "high": 0.4, "wanted": 0.9}
    edit(
        run / "evaluation.json",
        checks={"brief": {"n": 9, "baseline": 0.5, "tuned": 0.1}},
        gate={"passed": False, "failures": [failure], "unmeasured": []},
        recommended=[case],
    )
    text = markdown.render(gather(run), lang, "now", set())
    lines = [line for line in text.splitlines() if NAMES[lang] in line]
    assert len(lines) == 5  # the case, the checklist, what changed, and twice what to do
    assert f"| {NAMES[lang]} (2) |" in lines[0]
    assert "brief" not in text
    assert figures.Labels(lang).check("brief") == NAMES[lang]
