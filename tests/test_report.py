"""The report: every figure comes from a receipt, what is missing says so, and what is stale is not believed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib import font_manager, rcParams
from PIL import Image

from medtune import cli
from medtune.metrics import History
from medtune.records import DIMENSIONS
from medtune.report import advice, checklist, comparison, figures, markdown, page
from medtune.report.facts import Facts, gather
from medtune.report.numbers import Numbers
from medtune.run import CONFIG
from tests import fakerun
from tools import make_report

ROOT = Path(__file__).resolve().parents[1]
DRAW = figures.draw


def edit(path: Path, **results: Any) -> None:
    """Change results of a receipt."""
    receipt = json.loads(path.read_text(encoding="utf-8"))
    receipt["results"].update(results)
    path.write_text(json.dumps(receipt), encoding="utf-8")


def report(run: Path, *more: str, lang: str = "en") -> str:
    """The Markdown the tool writes."""
    out = run.parent / "report"
    assert cli.call(make_report.main, [str(run), "--out", str(out), "--lang", lang, *more]) == 0
    return (out / "REPORT.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text, flags=re.M)[
        [line.split("\n")[0] for line in re.split(r"^## ", text, flags=re.M)].index(title)
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with all receipts."""
    return fakerun.write_run(tmp_path)


@pytest.fixture(autouse=True)
def _quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests read words: drawing takes a second, and has tests of its own, which ask for ``real_figures``."""
    blank = dict.fromkeys(figures.DRAWINGS, (b"", "<svg></svg>"))
    monkeypatch.setattr(figures, "draw", lambda facts, lang: blank)


@pytest.fixture
def real_figures(_quick_figures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw", DRAW)


# --- every figure from a receipt


def test_every_key_in_a_source_column_is_in_its_receipt_and_its_value_stands_in_the_row(run: Path) -> None:
    facts = gather(run)
    rows = re.findall(r"^\| .* \| (.*) \| `([a-z_]+\.[a-z_.]+)` \|$", report(run), flags=re.M)
    assert len(rows) > 35
    for shown, key in rows:
        value = facts.look(key)
        assert value is not None, key
        if isinstance(value, float) and 0.01 < value < 1:
            assert f"{value:.3f}" in shown or f"{value:.2f}" in shown, (key, shown)
        elif isinstance(value, int) and not isinstance(value, bool) and "bytes" not in key:
            assert f"{value:,}" in shown or str(value) in shown, (key, shown)


def test_a_changed_receipt_changes_the_report(run: Path) -> None:
    before = report(run)
    edit(run / "training.json", it_per_sec=0.37)
    assert "0.37" in report(run) and "| 0.37 |" not in before


def test_the_sections_are_those_of_the_original_report_in_its_order(run: Path) -> None:
    titles = re.findall(r"^## (.*)$", report(run), flags=re.M)
    assert titles == [
        "Overview",
        "Results",
        "Training configuration",
        "Training priorities",
        "Before and after, measured",
        "Model files",
        "How to use it",
        "Recommended test cases, as answered",
        "Signs of success",
        "The course of the training",
        "What improved, as measured",
        "Next steps",
        "Support",
        "Provenance",
        "Limits of use",
    ]


def test_the_same_receipts_give_the_same_bytes(run: Path, real_figures: None) -> None:
    facts = gather(run)
    drawn = figures.draw(facts, "zh")
    assert drawn == figures.draw(facts, "zh")
    assert markdown.render(facts, "zh", "now", set(drawn)) == markdown.render(gather(run), "zh", "now", set(drawn))


def test_the_python_it_prints_runs_as_it_stands(
    tmp_path: Path, dense_twin: Path, capsys: pytest.CaptureFixture
) -> None:
    from medtune.model import adapters, base
    from medtune.schemas import Lora

    run = fakerun.write_run(tmp_path, "manifest", "training")
    model = base.Base.find(str(dense_twin)).load()
    lora = Lora(rank=2, alpha=4, dropout=0.0, num_layers=1, keys=["q_proj"])
    config = adapters.attach(model, lora).to_json()
    (run / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    adapters.save_tensors(run / "adapters.safetensors", adapters.tensors(model))
    edit(run / "training.json", base_model={"name": str(dense_twin)})
    blocks = re.findall(r"```python\n(.*?)```", report(run), flags=re.S)
    assert len(blocks) == 2
    exec("\n".join(blocks).replace("max_tokens=500", "max_tokens=3"), {})
    assert capsys.readouterr().out.strip()


def test_the_first_test_question_of_each_dimension_stands_there_with_both_answers(run: Path) -> None:
    shown = section(report(run), "Recommended test cases, as answered")
    for dim in DIMENSIONS:
        assert re.search(rf"\| {dim} 参考 0 \| {dim} baseline 回答 0 \| {dim} tuned 回答 0 \|", shown)
    assert "figures/sample_vision.png" in shown and "问题 1" not in shown


# --- missing and stale


@pytest.mark.parametrize(
    ("stages", "commands"),
    [
        (("manifest", "training"), ["make test-model", "make deploy"]),
        (("training", "evaluation", "deployment"), ["make data"]),
        (("manifest", "training", "deployment"), ["make test-model"]),
    ],
)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_missing_receipt_is_not_measured_and_names_its_command(
    tmp_path: Path, stages: tuple[str, ...], commands: list[str], lang: str
) -> None:
    text = report(fakerun.write_run(tmp_path, *stages), lang=lang)
    for command in commands:
        assert re.search(rf"^> \*\*(Not measured|未测量)\*\*.*{command} \w+=", text, flags=re.M), command
    assert "None" not in text


def test_without_an_evaluation_no_score_and_no_star_stands_anywhere(tmp_path: Path) -> None:
    text = report(fakerun.write_run(tmp_path, "manifest", "training"))
    compared = section(text, "Before and after, measured")
    assert compared.count("not measured") == 3 and not re.search(r"[★☆]|\d\.\d", compared)


def test_an_evaluation_of_other_adapters_is_stale_and_its_scores_are_left_out(run: Path) -> None:
    assert "+0.260" in report(run)
    (run / "adapters.safetensors").write_bytes(b"trained again")
    text = report(run)
    assert "**Stale**" in section(text, "Before and after, measured")
    assert "+0.260" not in text
    assert "make test-model RUN=" in section(text, "Next steps")


def test_a_deployed_file_that_is_gone_makes_the_deployment_stale(run: Path) -> None:
    next(run.glob("lmstudio/*/*/model.safetensors")).unlink()
    assert gather(run).stages["deployment"].state == "stale"


def test_a_data_set_changed_after_the_training_fails_its_line_of_the_checklist(run: Path) -> None:
    (run.parent / "data" / "train.jsonl").write_text("another\n")
    answers = {sign.text: sign.passed for sign in checklist.signs(gather(run), "en")}
    assert answers["The data set is the one that was trained on"] is False


def test_a_report_during_the_training_shows_the_curve_and_asks_for_the_rest(tmp_path: Path, real_figures: None) -> None:
    run = tmp_path / "adapters_v2"
    fakerun.write_metrics(run, fakerun.metrics(200, until=100))
    text = report(run)
    assert "figures/loss.png" in text and "make train RUN=" in text


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.call(make_report.main, [str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "make train" in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_an_unknown_language_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("REPORT_LANG", "fr")
    assert cli.call(make_report.main, [str(run), "--out", str(run / "out")]) == 1
    assert "zh or en" in capsys.readouterr().err


@pytest.mark.model("starts the tool in a process of its own")
def test_a_report_needs_no_mlx(run: Path) -> None:
    code = (
        "import sys; sys.modules['mlx'] = sys.modules['mlx.core'] = None\n"
        f"from tools import make_report; make_report.main([{str(run)!r}, '--out', {str(run / 'out')!r}])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert (run / "out" / "REPORT.html").exists()


# --- language


def test_the_language_is_chinese_unless_asked_otherwise(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPORT_LANG", raising=False)
    assert cli.call(make_report.main, [str(run), "--out", str(run / "zh")]) == 0
    monkeypatch.setenv("REPORT_LANG", "en")
    assert cli.call(make_report.main, [str(run), "--out", str(run / "en")]) == 0
    assert "训练报告" in (run / "zh" / "REPORT.md").read_text(encoding="utf-8")
    assert "Training report" in (run / "en" / "REPORT.md").read_text(encoding="utf-8")


def test_every_sentence_of_the_templates_has_its_chinese() -> None:
    import yaml

    chinese = yaml.safe_load((ROOT / "lib/medtune/texts/zh.yaml").read_text(encoding="utf-8"))
    templates = "".join(path.read_text(encoding="utf-8") for path in markdown.TEMPLATES.glob("*.md.j2"))
    sentences = re.findall(r'\bt\("((?:[^"\\]|\\.)*)"', templates)
    assert len(sentences) > 100
    assert [sentence for sentence in sentences if sentence not in chinese] == []


def test_the_chinese_report_says_nothing_in_english_but_names(run: Path) -> None:
    text = report(run, lang="zh")
    text = re.sub(r"```.*?```|`[^`]*`|!\[.*?\]\(.*?\)", "", text, flags=re.S)
    phrases = re.findall(r"\b[a-z]+ [a-z]+ [a-z]+\b", text)
    assert phrases == []


def test_a_proof_is_told_in_the_reports_language_and_an_old_receipts_note_as_it_stands(run: Path) -> None:
    english, chinese = report(run), report(run, lang="zh")
    assert "64 matrices moved (share ≥ 0.999, cosine ≥ 0.999), 1037 tensors untouched" in english
    assert "| L3 LM Studio itself | — not run |  | LM Studio's server is not running;" in english
    assert "| L3 LM Studio 本身 | — 未运行 |  | LM Studio 的服务没有运行；" in chinese and "| prompts 4 |" in chinese
    old = {"level": "L3", "name": "LM Studio itself", "verdict": "failed", "figures": {}, "note": "of 3 telling"}
    edit(run / "deployment.json", proofs=[old])
    assert "| L3 LM Studio 本身 | ❌ 未通过 |  | of 3 telling |" in report(run, lang="zh")


def test_without_a_chinese_font_the_figures_speak_english(
    run: Path, real_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(figures, "chinese_font", lambda: None)
    monkeypatch.setattr(figures.names, "name", lambda word, lang: asked.append(lang) or word)
    figures.draw(gather(run), "zh")
    assert set(asked) == {"en"}


@pytest.mark.parametrize(("weights", "wanted"), [((400,), "normal"), ((400, 700), "bold"), ((400, "bold"), "bold")])
def test_titles_are_bold_where_the_font_has_it(
    run: Path, real_figures: None, monkeypatch: pytest.MonkeyPatch, weights: tuple[Any, ...], wanted: str
) -> None:
    asked: list[Any] = []
    fonts = [font_manager.FontEntry(name="Some", weight=weight) for weight in weights]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    monkeypatch.setattr(figures, "chinese_font", lambda: "Some")
    monkeypatch.setattr(figures, "DRAWINGS", {"x": lambda *_: asked.append(rcParams["axes.titleweight"])})
    figures.draw(gather(run), "zh")
    assert asked == [wanted]


# --- foreign text


def test_an_answer_cannot_become_markup(run: Path) -> None:
    nasty = '<script>alert(1)</script> | **bold** `code` [x](http://a.b) $x$ # h\n> quote <img src="http://a.b/c">'
    case = {"id": "x", "question": nasty, "image": None, "expect": "", "baseline": nasty, "tuned": nasty, "checks": {}}
    edit(run / "evaluation.json", recommended=[case])
    text = report(run)
    html = (run.parent / "report" / "REPORT.html").read_text(encoding="utf-8")
    assert "<script" not in html and 'src="http' not in html and "<strong>bold" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; | **bold** `code` [x](http://a.b) $x$ # h<br>" in html
    row = next(line for line in text.splitlines() if line.startswith("| &lt;script"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3  # two cells, whatever the answer holds


@pytest.mark.parametrize(
    "text", ["a|b", "*a*", "_a_", "`a`", "[a](b)", "<b>", "a & b", "\\", "#1", "~~a~~", "$a$", "  a "]
)
def test_escaped_text_is_rendered_as_it_was(text: str) -> None:
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown.escaped(text))
    plain = html.removeprefix("<p>").removesuffix("</p>\n")
    assert plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("&quot;", '"') == text.strip()


# --- the page


def test_the_page_is_complete_in_itself(run: Path) -> None:
    report(run, lang="zh")
    html = (run.parent / "report" / "REPORT.html").read_text(encoding="utf-8")
    loaded = re.findall(r'(?:src|href)="([^"#][^"]*)"', html)
    assert all(address.startswith("data:") for address in loaded if "xlink" not in address)
    assert not re.search(r"@import|url\(http|<script|<link", html)
    assert (
        html.count("<svg") == 6 and html.count("<figure>") == 8
    )  # six drawings, the pictures of a case and of a sample


def test_the_contents_lead_to_every_section(run: Path) -> None:
    report(run)
    html = (run.parent / "report" / "REPORT.html").read_text(encoding="utf-8")
    anchors = re.findall(r'<a href="#(s\d+)">', html)
    assert len(anchors) == 15 and all(f'<h2 id="{anchor}">' in html for anchor in anchors)


def test_the_picture_of_a_case_carries_no_metadata(run: Path) -> None:
    picture = run.parent / "data" / "sheet.jpg"
    exif = Image.Exif()
    exif[0x010E] = "patient Zhang"
    Image.new("RGB", (2000, 1000), "white").save(picture, exif=exif)
    case = {"id": "x", "question": "?", "image": "sheet.jpg", "expect": "", "baseline": "", "tuned": "", "checks": {}}
    edit(run / "evaluation.json", recommended=[case])
    report(run)
    written = run.parent / "report" / "figures" / "case_1.png"
    with Image.open(written) as image:
        assert max(image.size) == 900 and not image.getexif()
    assert b"Zhang" not in written.read_bytes()


@pytest.mark.model("starts Chromium")
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium (apt-get install chromium)")
@pytest.mark.parametrize("width", [1240, 400])
def test_in_a_browser_nothing_sticks_out_of_the_page(run: Path, tmp_path: Path, real_figures: None, width: int) -> None:
    report(run, lang="zh")
    html = (run.parent / "report" / "REPORT.html").read_text(encoding="utf-8")
    frame = tmp_path / "frame.html"  # an iframe has the width we give it; headless windows have a least width
    measure = "f.onload=()=>document.title=f.contentDocument.documentElement.scrollWidth"
    quoted = html.replace("&", "&amp;").replace('"', "&quot;")
    frame.write_text(f'<iframe id=f width={width} height=900 srcdoc="{quoted}"></iframe><script>{measure}</script>')
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command = ["chromium", *flags, f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{frame}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<title>(\d+)</title>", dom)
    assert found and int(found[1]) <= width


# --- what follows from the facts


def advised(facts: Facts) -> str:
    return "\n".join(advice.advice(facts, "en"))


def with_curve(run: Path, losses: list[float]) -> Facts:
    rows = [fakerun.event("start", 0, fakerun.BEGIN, total_steps=200)]
    rows += [
        {**fakerun.valid(200 * i // (len(losses) - 1), fakerun.BEGIN + i), "loss": x} for i, x in enumerate(losses)
    ]
    fakerun.write_metrics(run, rows)
    return gather(run)


def test_a_loss_that_still_falls_asks_for_more_steps(run: Path) -> None:
    assert 'SET="iters=300"' in advised(with_curve(run, [1.0, 0.8, 0.7, 0.6, 0.5]))


def test_a_loss_that_rose_again_asks_for_fewer_steps(run: Path) -> None:
    assert 'SET="iters=100"' in advised(with_curve(run, [1.0, 0.6, 0.5, 0.6, 0.7]))


def test_a_loss_that_has_settled_asks_for_neither(run: Path) -> None:
    assert "iters=" not in advised(with_curve(run, [1.0, 0.6, 0.5, 0.5, 0.5]))


def test_a_dimension_that_did_not_gain_what_the_gate_wants_names_its_weight(run: Path) -> None:
    assert "objective.priorities.vision.weight" in advised(gather(run))
    assert "objective.priorities.accuracy.weight" not in advised(gather(run))


def test_cut_answers_ask_for_more_tokens_only_where_there_are_some(run: Path) -> None:
    assert "9 of 164 answers" in advised(gather(run))
    edit(run / "evaluation.json", truncated={"baseline": 9, "tuned": 0})
    assert "answers of the tuned model were cut" not in advised(gather(run))


def test_the_items_needed_grow_with_the_square_of_what_is_to_be_seen() -> None:
    effect = comparison.Effect("vision", 24, 0.50, 0.56, 0.06, -0.05, 0.17, 0.29, detectable=0.18)
    assert effect.finding == "undecided"
    assert effect.needed == 24 * 3**2


@pytest.mark.parametrize(
    ("low", "high", "finding"),
    [(0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.2, "undecided"), (None, None, "undecided")],
)
def test_better_needs_the_whole_interval_above_zero(low: float | None, high: float | None, finding: str) -> None:
    assert comparison.Effect("accuracy", 9, 0.5, 0.6, 0.1, low, high, None, None).finding == finding


def test_the_checklist_answers_from_the_receipts(run: Path) -> None:
    answers = [sign.passed for sign in checklist.signs(gather(run), "en")]
    assert answers == [True] * 7 + [False, False, True]
    (run / "0000100_adapters.safetensors").unlink()
    edit(
        run / "deployment.json",
        staged=False,
        proofs=[{"level": 1, "name": "m", "verdict": "failed", "figures": {}, "note": ""}],
    )
    answers = [sign.passed for sign in checklist.signs(gather(run), "en")]
    assert (answers[2], answers[8], answers[9]) == (False, True, False)


@pytest.mark.parametrize(
    ("lang", "said"),
    [
        ("en", "vision: the difference may be as low as -0.050, +0.080 is wanted; warns of an emergency: not measured"),
        ("zh", "图像识别：差异可能低至 -0.050，要求不低于 +0.080; 提示急症: 未测量"),
    ],
)
def test_the_checklist_says_why_the_gate_is_shut_in_the_language_of_the_report(run: Path, lang: Any, said: str) -> None:
    assert checklist.signs(gather(run), lang)[7].evidence == said


def test_the_gate_of_an_earlier_evaluation_is_said_as_it_was_stored(run: Path) -> None:
    edit(run / "evaluation.json", gate={"passed": False, "failures": ["vision +0.060 < +0.080"]})
    assert "vision +0.060 &lt; +0.080" in section(report(run), "Signs of success")


def test_a_check_that_the_gate_wants_more_often_is_among_the_next_steps(run: Path) -> None:
    failure = {"kind": "pass_rate", "check": "referral", "passed": 9, "n": 20, "low": 0.26, "high": 0.66, "wanted": 0.9}
    edit(run / "evaluation.json", gate={"passed": False, "failures": [failure], "unmeasured": []})
    assert "The gate failed: refers to a doctor: 9 of 20 passed (26% to 66%), 90% are wanted." in advised(gather(run))


def test_what_was_not_run_is_neither_a_success_nor_a_failure(tmp_path: Path) -> None:
    answers = [sign.passed for sign in checklist.signs(gather(fakerun.write_run(tmp_path, "training")), "en")]
    assert answers[6:] == [None] * 4


def test_another_run_stands_beside_with_its_settings_and_its_curve(tmp_path: Path) -> None:
    run, before = fakerun.write_run(tmp_path / "new"), fakerun.write_run(tmp_path / "old")
    edit(before / "training.json", lora={"rank": 16, "alpha": 32})
    text = report(run, "--baseline", str(before))
    assert re.search(r"\| LoRA rank \| 128 \| 16 \| `training.lora.rank` \|", text)


# --- figures as people read them


@pytest.mark.parametrize(
    ("how", "value", "text"),
    [
        ("loss", 0.31149, "0.311"),
        ("signed", -0.02, "−0.020"),
        ("chance", 0.0004, "< 0.001"),
        ("percent", 0.631, "63.1%"),
        ("count", 35651584, "35,651,584"),
        ("number", 5e-6, "5e-06"),
        ("size", 142_606_336, "136.0 MiB"),
        ("duration", 2105.0, "35 min 5 s"),
        ("duration", 8109.0, "2 h 15 min"),
        ("duration", 3599.9, "1 h"),
        ("duration", 4.25, "4.2 s"),
        ("moment", "2025-12-05T20:09:31+08:00", "2025-12-05 20:09 +08:00"),
        ("loss", None, "not measured"),
    ],
)
def test_figures_are_written_in_one_way(how: str, value: Any, text: str) -> None:
    assert Numbers("en").write(value, how) == text


def test_the_page_of_a_report_without_any_picture_still_stands(run: Path) -> None:
    facts = gather(run)
    html = page.render(markdown.render(facts, "en", "now", set()), facts, "en", {})
    assert "<figure>" not in html and "Overview" in html


def test_the_history_of_the_fixture_is_what_the_receipt_says(run: Path) -> None:
    best = History.read(run / "metrics.jsonl").best
    assert best and best["loss"] == gather(run).look("training.val_loss.best")
