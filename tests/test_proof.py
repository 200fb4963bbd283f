"""The proof refuses what would not answer as base + adapter does, and says why."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from medtune import files, lmstudio
from medtune.demo.random_model import write_twin
from medtune.deployment import deltas, folder, fuse, proof, template
from medtune.deployment.client import NotRunning, Server
from medtune.deployment.fidelity import Fidelity, Tally
from medtune.deployment.inspection import Inspection
from medtune.deployment.proof import (
    Subject,
    Verdict,
    behaviour,
    canaries,
    l0_lint,
    l0_weights,
    l1_pinned,
    l2_app,
    l3_served,
    lint,
    references,
    sentences,
    stack,
)
from medtune.deployment.proof.references import Reference, References
from medtune.model.base import Base
from medtune.model.tensors import INDEX, Weights
from medtune.receipt import Receipt
from medtune.report import markdown
from medtune.report.facts import gather
from tests import fakerun
from tests.deployed import ATTENTION, App, write_run

SYSTEM = "你是一位医生。"
BLOCK = "language_model.model.layers.0.self_attn.o_proj.weight"


@dataclasses.dataclass(frozen=True)
class Good:
    """A proved folder and what it was made from; tests copy it before they spoil it."""

    run: Path
    base: Base
    changes: list[fuse.Change]
    folder: Path
    subject: Subject


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    root = tmp_path_factory.mktemp("good")
    base = Base.find(str(write_twin(root / "base", moe=False, layers=2, bits=4)))
    run = write_run(root / "run", base.path, size=0.02, keys=(*ATTENTION, "down_proj"), system_prompt=SYSTEM)
    weights, chat_template = Weights.open(base.path), template.with_system_prompt(base.chat_template, SYSTEM)
    changes = fuse.plan(weights, base.quantization, deltas.read(run), "auto")
    made = root / "models" / "medtune" / "small-v2"
    made.mkdir(parents=True)
    fuse.write(weights, changes, made)
    quantization = fuse.quantization_after(base.quantization, changes)
    folder.write(base, made, template=chat_template, quantization=quantization, card="card")
    asked = canaries.built_in(root / "canaries", SYSTEM)
    recorded = references.record(base, run, asked, SYSTEM)
    subject = Subject(made, base, [change.delta for change in changes], chat_template, recorded, "medtune/small-v2")
    return Good(run, base, changes, made, subject)


Spoil = Callable[[Good, Path], None]


def _adapter_beside_base(good: Good, path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(good.base.path, path)
    loaded: Any = mx.load(str(path / "model.safetensors"))
    files.write_json(path / INDEX, {"weight_map": dict.fromkeys(loaded, "model.safetensors")})
    for name in ("adapters.safetensors", "adapter_config.json"):
        shutil.copy(good.run / name, path / name)


def _stale_index(good: Good, path: Path) -> None:
    files.write_json(path / INDEX, {"weight_map": {"a": "model-00001-of-00013.safetensors"}})


def _blind(good: Good, path: Path) -> None:
    kept = {name: value for name, value in _arrays(path).items() if not name.startswith("vision_tower.")}
    mx.save_safetensors(str(path / "model.safetensors"), kept, {"format": "mlx"})
    files.write_json(path / INDEX, {"weight_map": dict.fromkeys(kept, "model.safetensors")})


def _requantised(good: Good, path: Path) -> None:
    changes = fuse.plan(Weights.open(good.base.path), good.base.quantization, good.subject.deltas, "keep")
    fuse.write(Weights.open(good.base.path), changes, path)
    quantization = fuse.quantization_after(good.base.quantization, changes)
    folder.write(good.base, path, template=good.subject.template, quantization=quantization, card="card")


def _another_template(good: Good, path: Path) -> None:
    another = good.subject.template.replace("<|im_start|>user", "<|im_start|>human")
    (path / folder.TEMPLATE).write_text(another, encoding="utf-8")
    for name in folder.TEMPLATE_COPIES:
        files.write_json(path / name, files.read_json(path / name) | {"chat_template": another})


def _without(name: str) -> Spoil:
    return lambda good, path: (path / name).unlink()


def _left_alone(good: Good, path: Path) -> None:
    pass


def _linked(good: Good, path: Path) -> None:
    elsewhere = path.parent / "elsewhere.safetensors"
    shutil.move(path / "model.safetensors", elsewhere)
    (path / "model.safetensors").symlink_to(elsewhere)


def _no_format(good: Good, path: Path) -> None:
    mx.save_safetensors(str(path / "model.safetensors"), _arrays(path))


def _another_tensor(good: Good, path: Path) -> None:
    arrays = _arrays(path)
    name = "language_model.model.norm.weight"
    arrays[name] = arrays[name] * 1.001
    mx.save_safetensors(str(path / "model.safetensors"), arrays, {"format": "mlx"})


def _another_tokenizer(good: Good, path: Path) -> None:
    (path / "merges.txt").write_text((path / "merges.txt").read_text(encoding="utf-8") + "\n", encoding="utf-8")


def _arrays(path: Path) -> dict[str, mx.array]:
    loaded: Any = mx.load(str(path / "model.safetensors"))
    mx.eval(loaded)
    return loaded


SPOILED: dict[str, tuple[Spoil, str]] = {
    "adapter beside base": (_adapter_beside_base, "ignores adapters and serves the base model"),
    "stale index": (_stale_index, "named but not there"),
    "vision stripped": (_blind, "no vision weights"),
    "4 bits again": (_requantised, "of the adapter's change is there"),
    "another template": (_another_template, "not the one of the training"),
    "no preprocessor": (_without("preprocessor_config.json"), "older engines refuse images"),
    "symbolic link": (_linked, "a symbolic link"),
    "no format in the header": (_no_format, "does not say format: mlx"),
    "another tensor": (_another_tensor, "model.norm.weight: differs from the base"),
    "another tokenizer": (_another_tokenizer, r"merges.txt: not the base's own"),
}


# Whoever adds a level adds its line: what is done to a good folder, and the code of what the level then finds.
EXAMPLES: dict[str, tuple[Spoil, str]] = {
    "l0_lint": (_without("preprocessor_config.json"), "no_preprocessor"),
    "l0_weights": (_another_tensor, "not_the_bases"),
    "l1_own": (_without("config.json"), "does_not_load"),
    "l1_pinned": (_left_alone, "not_made"),
    "l2_app": (_left_alone, "not_installed"),
    "l3_served": (_left_alone, "not_installed"),
}
LEVELS = {module.__name__.rpartition(".")[2]: module for _, module in proof.levels()}


def _after(spoil: Spoil, good: Good, tmp_path: Path) -> Subject:
    path = tmp_path / "medtune" / "small-v2"
    shutil.copytree(good.folder, path)
    spoil(good, path)
    return dataclasses.replace(good.subject, folder=path)


def _spoiled(good: Good, tmp_path: Path, kind: str) -> Subject:
    return _after(SPOILED[kind][0], good, tmp_path)


def _said(module: Any, verdict: Verdict) -> str:
    """What a level's faults are in words."""
    return "; ".join(sentences.fault(fault, module.SENTENCES, "en") for fault in verdict.faults)


def test_every_level_has_its_example() -> None:
    assert set(EXAMPLES) == set(LEVELS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_level_tells_its_example_and_says_it(
    name: str, good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "interpreter", lambda: None)
    level, (spoil, code) = LEVELS[name], EXAMPLES[name]
    verdict = level.check(_after(spoil, good, tmp_path))
    assert verdict.verdict == ("skipped" if spoil is _left_alone else "failed")
    assert code in {fault["fault"] for fault in verdict.faults} and f"{code} (" not in _said(level, verdict)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith("l0_")])
def test_a_level_that_only_reads_passes_a_good_folder(name: str, good: Good) -> None:
    assert LEVELS[name].check(good.subject).verdict == "passed"


def test_a_good_folder_passes_and_every_figure_is_told(good: Good) -> None:
    assert l0_lint.check(good.subject) == Verdict("passed", {"problems": 0}, [])
    verdict = l0_weights.check(good.subject)
    figures = verdict.figures
    assert (verdict.verdict, verdict.faults, figures["adapted"]) == ("passed", [], len(good.changes))
    assert figures["least_share"] > 0.95 and figures["least_cosine"] > 0.95
    parts = {part.name for change in good.changes for part in change.matrix.parts}
    assert figures["untouched"] == len(set(Weights.open(good.base.path).tensors) - parts)


@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoiled_folder_is_refused_by_its_files_or_weights(good: Good, tmp_path: Path, kind: str) -> None:
    subject = _spoiled(good, tmp_path, kind)
    module = l0_lint
    if module.check(subject).verdict == "passed":
        module = l0_weights
    verdict = module.check(subject)
    assert verdict.verdict == "failed" and SPOILED[kind][1] in _said(module, verdict)


def test_the_first_failed_level_ends_the_proof(good: Good, tmp_path: Path) -> None:
    verdicts = list(proof.run(_spoiled(good, tmp_path, "4 bits again")))
    assert [v.name for v in verdicts if v.verdict == "failed"] == ["weights"] and verdicts[-1].name == "weights"
    assert {v.verdict for v in verdicts[:-1]} == {"passed"}


def _row(vocabulary: int = 8, seed: int = 0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(4, vocabulary)).astype(np.float32)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _reference(tuned: np.ndarray, base: np.ndarray, other: np.ndarray | None = None) -> Reference:
    asked = canaries.Canary("c", (), other=(Path("other.png"),) if other is not None else ())
    return Reference(asked, np.arange(3), [1, 2, 3, 4], tuned, base, other, "tuned", "base")


def test_kl_is_zero_for_equal_and_known_for_two_coins() -> None:
    assert behaviour.kl(_row(), _row()) == 0
    p, q = np.log(np.array([[0.5, 0.5]])), np.log(np.array([[0.25, 0.75]]))
    assert behaviour.kl(p, q) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))


@pytest.mark.parametrize(
    ("tokens", "answer", "other", "fault"),
    [
        (3, "tuned", "other", None),
        (4, "tuned", "other", "other_tokens"),
        (3, "base", "other", "like_the_base"),
        (3, "strange", "other", "answers_differ"),
        (3, "tuned", "tuned", "blind"),
    ],
)
def test_each_way_to_answer_wrongly_has_its_fault(tokens: int, answer: str, other: str, fault: str | None) -> None:
    rows = {name: _row(seed=seed) for seed, name in enumerate(("tuned", "base", "other", "strange"))}
    item = _reference(rows["tuned"], rows["base"], rows["other"])
    figures = behaviour.compare([item], {"c": behaviour.Answers(np.arange(tokens), rows[answer], rows[other])})
    found = [one["fault"] for one in behaviour.faults(figures)]
    assert (found == []) if fault is None else fault in found


def test_references_tell_the_tuned_model_from_the_base_and_look_at_images(good: Good) -> None:
    items = good.subject.references.items
    assert {bool(item.canary.images) for item in items} == {True, False}
    assert all(behaviour.kl(item.tuned, item.base) > 1e-5 for item in items)
    assert all(behaviour.kl(item.tuned, item.tuned_other) > 1e-4 for item in items if item.tuned_other is not None)
    for item in items:  # the recorded answer is the greedy one
        assert item.tuned.argmax(-1).tolist() == item.answer


def test_a_prompt_the_template_adds_is_not_sent_again(good: Good) -> None:
    recorded = good.subject.references
    for item in recorded.items:
        assert [m["role"] for m in recorded.messages(item.canary)] == ["user"]
        sent = dataclasses.replace(recorded, template_adds="").messages(item.canary)
        assert [m["role"] for m in sent] == ["system", "user"]


def test_the_runs_own_prompts_become_canaries(tmp_path: Path) -> None:
    from PIL import Image

    red = tmp_path / "a.png"
    Image.new("RGB", (80, 64), "red").save(red)
    said = {"split": "test", "dim": "accuracy", "reference": "", "answer": "", "finish": "stop"}
    rows = [
        {"id": "1", "model": "tuned", "prompt": [{"role": "user", "content": "x"}], "images": []},
        {"id": "1", "model": "baseline", "prompt": [{"role": "user", "content": "x"}], "images": []},
        {"id": "mine/chats:2", "model": "tuned", "prompt": [{"role": "user", "content": "<image>y"}],
         "images": [str(red)]},
        {"id": "3", "model": "tuned", "prompt": [{"role": "user", "content": "<image>y"}], "images": ["gone.png"]},
    ]  # fmt: skip
    files.write_jsonl(tmp_path / "predictions.jsonl", [json.dumps(said | row) for row in rows])
    text, image = canaries.from_predictions(tmp_path / "predictions.jsonl", tmp_path)
    assert text.id != image.id and "mine/chats" not in text.id + image.id  # a raw file's name reaches no receipt
    with Image.open(image.other[0]) as other:
        assert other.size == (80, 64) and other.getpixel((0, 0)) == (0, 255, 255)
    assert canaries.from_predictions(tmp_path / "none.jsonl", tmp_path) == []


def _inspected(path: Path) -> str:
    inspection = Inspection.of(path)
    return "\n".join([*inspection.lines, inspection.verdict])


def test_the_doctor_explains_the_layout_of_the_first_version(good: Good, tmp_path: Path) -> None:
    said = _inspected(_spoiled(good, tmp_path, "adapter beside base").folder)
    assert "serves the base model, because it loads only the files its index names" in said
    (tmp_path / "medtune" / "small-v2" / INDEX).unlink()
    said = _inspected(tmp_path / "medtune" / "small-v2")
    assert "refuses the folder" in said
    assert "loads it as medtune/small-v2" in _inspected(good.folder)
    (tmp_path / "empty").mkdir()
    assert "does not see a model here" in _inspected(tmp_path / "empty")


def test_the_doctor_sees_json_that_is_none(good: Good, tmp_path: Path) -> None:
    shutil.copytree(good.folder, tmp_path / "m")
    config = (tmp_path / "m" / "config.json").read_text()
    (tmp_path / "m" / "config.json").write_text(config.replace("10000.0", "Infinity", 1))
    assert "Infinity is not JSON" in _inspected(tmp_path / "m")


# --- L3: the app, played by a script for `lms` and a server with its recorded forms of answer ---


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setattr(l3_served, "PAUSE", 0.0)
    made = App(tmp_path / "home", 9)
    made.home.mkdir()
    return made


def _says(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Reference], str], items: list[Reference]) -> None:
    """Let the server answer each canary in turn."""
    waiting = iter(items)
    monkeypatch.setattr(Server, "complete", lambda self, model, messages, max_tokens: answer(next(waiting)))
    v1 = [{"key": "small-v2", "type": "llm", "format": "mlx", "capabilities": {"vision": True}, "loaded_instances": []}]
    monkeypatch.setattr(Server, "described", lambda self: v1)


def _telling(good: Good, home: Path | None) -> Subject:
    items = [
        dataclasses.replace(i, tuned_text="收缩压 140 属于 1 级", base_text="请多喝水")
        for i in good.subject.references.items
    ]
    return dataclasses.replace(good.subject, home=home, references=References(items, SYSTEM))


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (lambda i: i.tuned_text, "passed"),
        (lambda i: i.tuned_text[:9] + "……", "passed"),
        (lambda i: i.base_text, "failed"),
        (lambda i: i.tuned_text[:2], "failed"),  # a beginning that says nothing
        (lambda i: "您好", "failed"),
        (lambda i: "", "failed"),
    ],
)
def test_the_apps_answers_decide(
    good: Good, app: App, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Reference], str], verdict: str
) -> None:
    app.install()
    subject = _telling(good, app.home)
    _says(monkeypatch, answer, subject.references.items)
    found = l3_served.check(subject)
    figures = found.figures
    assert found.verdict == verdict and figures["asked"] == figures["telling"] == len(subject.references.items)
    log = app.log.read_text().splitlines()
    assert any(line.startswith("load small-v2 --exact --identifier medtune-verify") for line in log)
    assert log[-1] == "unload medtune-verify"


def test_what_keeps_the_app_from_being_asked_is_said_and_is_no_fault(good: Good, app: App) -> None:
    subject = _telling(good, None)
    assert l3_served.check(subject) == Verdict.skipped("not_installed")
    subject = dataclasses.replace(subject, home=app.home)
    assert l3_served.check(subject) == Verdict.skipped("no_lms")
    app.running = False
    app.install()
    assert "server start" in _said(l3_served, l3_served.check(subject))
    app.running, app.listed = True, []
    app.install()
    assert l3_served.check(subject) == Verdict.skipped("not_listed", key="medtune/small-v2")


def test_a_server_that_stops_answering_is_told_by_its_address(
    good: Good, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.install()

    def gone(self: Server) -> list[dict[str, Any]]:
        raise NotRunning("http://127.0.0.1:9/api/v1/models", "refused")

    monkeypatch.setattr(Server, "described", gone)
    told = {"url": "http://127.0.0.1:9/api/v1/models", "error": "refused"}
    assert l3_served.check(_telling(good, app.home)) == Verdict.skipped("no_answer", **told)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("Medtune/Small-V2", True),
        ("medtune/small-v2", True),
        ("/Users/a/.lmstudio/models/medtune/small-v2/", True),
        ("my-medtune/small-v2", False),
        ("medtune/small-v20", False),
    ],
)
def test_the_app_may_spell_a_models_folder_in_its_own_case(app: App, path: str, found: bool) -> None:
    app.listed[0]["path"] = path
    app.install()
    assert bool(l3_served._listed(lmstudio.Lms(app.home), "Medtune/Small-V2")) is found


@pytest.mark.parametrize(
    "described",
    [
        {"key": "small-v2", "type": "llm", "format": "mlx", "capabilities": {"vision": False}},
        {"id": "small-v2", "type": "llm", "compatibility_type": "mlx"},
        {"id": "small-v2", "type": "vlm", "compatibility_type": "torch_safetensors"},
    ],
)
def test_a_model_the_app_lists_blind_or_not_as_mlx_is_refused(described: dict[str, Any]) -> None:
    assert l3_served._not_mlx_vision([described]) == [described]
    vlm = {"id": "small-v2", "type": "vlm", "compatibility_type": "mlx"}
    assert l3_served._not_mlx_vision([vlm]) == []


# --- Levels that load the folder in a process of their own ---


def _interpreters() -> list[Any]:
    """Ours, and LM Studio's versions where their environment was made (`make prove PINNED=1`; CI always does)."""
    pinned = stack.interpreter()
    missing = pytest.mark.skipif(pinned is None, reason="its environment is not made: make prove PINNED=1")
    return [pytest.param(Path(sys.executable), id="own"), pytest.param(pinned, id="pinned", marks=missing)]


@pytest.mark.parametrize("python", _interpreters()[1:])  # our own stack: test_deploy_to_lmstudio
def test_a_good_folder_answers_as_base_and_adapter_in(good: Good, python: Path) -> None:
    verdict = behaviour.check(good.subject, python)
    figures = verdict.figures
    assert (verdict.verdict, verdict.faults) == ("passed", [])
    assert figures["kl_to_tuned"] < 1e-3 and figures["kl_to_base_mean"] > 10 * figures["kl_to_tuned_mean"]


LOADED = {
    "adapter beside base": r"answers like the base model",
    "vision stripped": r"does not load|vision is not in effect",
    "4 bits again": r"answers like the base model",
    "another template": r"other tokens",
}


@pytest.mark.slow("loads each spoiled folder in each interpreter that is there")
@pytest.mark.parametrize("python", _interpreters())
@pytest.mark.parametrize("kind", LOADED)
def test_a_spoiled_folder_betrays_itself_by_its_answers_in(good: Good, tmp_path: Path, python: Path, kind: str) -> None:
    import re

    verdict = behaviour.check(_spoiled(good, tmp_path, kind), python)
    note = _said(behaviour, verdict)
    assert verdict.verdict == "failed" and re.search(LOADED[kind], note), note


def test_the_apps_interpreter_is_asked_where_it_is_installed(good: Good, tmp_path: Path) -> None:
    assert l2_app.check(good.subject) == Verdict.skipped("not_installed")
    at = dataclasses.replace(good.subject, home=tmp_path)
    assert l2_app.check(at) == Verdict.skipped("no_engine")
    python = tmp_path / lmstudio.ENGINES / "app-mlx-generate-mac14-arm64@33" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'ImportError: no Metal here' >&2\nexit 1\n")
    python.chmod(0o755)
    assert _said(l2_app, l2_app.check(at)) == "the folder does not load: ImportError: no Metal here"


# --- What is no number, and what was not measured, does not pass ---

NAN = float("nan")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("share", "cosine"), [(NAN, 1.0), (1.0, NAN), (NAN, NAN), (0.89, 1.0)])
def test_a_change_whose_figures_are_no_numbers_is_lost(share: float, cosine: float, packed: bool) -> None:
    found = list(l0_weights.lost("m", Fidelity(share, cosine, 0.1, 0.0), packed))
    assert [one["fault"] for one in found] == ["lost"]
    assert list(l0_weights.lost("m", Fidelity(0.91, 0.91, 0.1, 0.0), packed)) == []


def test_noise_that_is_no_number_is_not_taken_for_none() -> None:
    tally = Tally()
    tally.add(mx.ones((2, 2)), mx.full((2, 2), 1.5), mx.full((2, 2), NAN))
    assert np.isnan(tally.fidelity.noise) and not tally.fidelity.kept


def test_an_adapter_that_changes_nothing_and_a_proof_that_asks_nothing_fail(good: Good) -> None:
    nothing = dataclasses.replace(good.subject, deltas=[], references=References([], ""))
    assert l0_weights.check(nothing) == Verdict("failed", {}, [{"fault": "nothing_adapted"}])
    assert behaviour.check(nothing, Path("/no/python")) == Verdict("failed", {}, [{"fault": "nothing_asked"}])


@pytest.mark.parametrize(
    ("spoiled", "faults"),
    [
        ({"answer": NAN}, {"answers_differ", "like_the_base", "blind"}),
        ({"shown": NAN}, {"blind"}),
        ({"tuned": NAN}, {"answers_differ", "like_the_base", "blind"}),
        ({"base": NAN}, {"like_the_base"}),
        ({"other": NAN}, {"blind"}),
        ({"other": None, "shown": None}, {"vision_not_asked"}),
        ({}, set()),
    ],
)
def test_answers_and_references_that_are_no_numbers_do_not_pass(spoiled: dict[str, Any], faults: set[str]) -> None:
    rows: dict[str, Any] = {name: _row(seed=seed) for seed, name in enumerate(("tuned", "base", "other"))}
    rows |= {"answer": rows["tuned"], "shown": rows["other"]}
    rows |= {name: None if value is None else np.full((4, 8), value) for name, value in spoiled.items()}
    good = _reference(_row(seed=0), _row(seed=1), _row(seed=2))
    fine = behaviour.Answers(np.arange(3), good.tuned, good.tuned_other)
    item = dataclasses.replace(_reference(rows["tuned"], rows["base"], rows["other"]), canary=canaries.Canary("d", ()))
    answers = {"d": behaviour.Answers(np.arange(3), rows["answer"], rows["shown"])}
    assert {one["fault"] for one in behaviour.faults(behaviour.compare([item], answers))} == faults
    if "vision_not_asked" not in faults:  # and a sound canary beside it does not hide it
        figures = behaviour.compare([good, item], answers | {"c": fine})
        assert {one["fault"] for one in behaviour.faults(figures)} >= faults - {"answers_differ"}
        assert (figures["kl_limit_broken"] == ["d"]) == ("answers_differ" in faults)


@pytest.mark.parametrize(("tuned", "base"), [(NAN, 0), (1, 0), (0, 0), (2, 2)])
def test_the_apps_answers_pass_only_when_more_than_half_of_them_follow_the_tuned_model(tuned: float, base: int) -> None:
    (fault,) = l3_served.faults({"telling": 4, "like_tuned": tuned, "like_base": base})
    assert fault["fault"] == "not_the_tuned"
    assert l3_served.faults({"telling": 4, "like_tuned": 3, "like_base": 1}) == []


def test_an_app_whose_answers_could_tell_nothing_has_proved_nothing(
    good: Good, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.install()
    items = [dataclasses.replace(item, tuned_text="同", base_text="同") for item in good.subject.references.items]
    _says(monkeypatch, lambda item: "同", items)
    subject = dataclasses.replace(good.subject, home=app.home, references=References(items, SYSTEM))
    verdict = l3_served.check(subject)
    assert (verdict.verdict, verdict.faults) == ("skipped", [{"fault": "nothing_tells"}])
    assert verdict.figures["telling"] == 0 and verdict.figures["asked"] == len(items)


# --- Facts, and the sentences made of them ---


def _fields(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


def test_every_word_of_every_level_is_there_in_both_languages_with_the_same_values() -> None:
    for _, module in proof.levels():
        words = [
            module.NAME,
            *(getattr(module, name, module.NAME) for name in ("FIGURES", "FIGURES_SEEN")),
            *getattr(module, "SENTENCES", {}).values(),
        ]
        assert all(set(word) == {"en", "zh"} and _fields(word["en"]) == _fields(word["zh"]) for word in words)


def test_every_code_of_a_fault_has_its_sentence_beside_it() -> None:
    sources = [module for _, module in proof.levels()] + [behaviour, lint]
    for module in sources:
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
            codes: list[ast.expr] = []
            if isinstance(node, ast.Dict):
                codes = [v for k, v in zip(node.keys, node.values, strict=True) if ast.unparse(k or v) == "'fault'"]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Verdict.skipped":
                codes = node.args[:1]
            named = {leaf.value for code in codes for leaf in ast.walk(code) if isinstance(leaf, ast.Constant)}
            assert named <= set(module.SENTENCES), f"{module.__name__}:{node.lineno}" if named else ""


def test_the_words_of_the_proof_need_no_mlx() -> None:
    script = "import sys; from medtune.deployment.proof import levels, sentences; list(levels()); "
    script += "print([name for name in sys.modules if name.partition('.')[0] in ('mlx', 'mlx_vlm')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_row_is_said_in_the_language_that_is_asked_for() -> None:
    figures = {"adapted": 8, "untouched": 99, "least_share": 0.5, "least_cosine": 0.7}
    faults = [{"fault": "not_the_bases", "tensor": f"t{n}"} for n in range(12)]
    row = dataclasses.replace(Verdict.of(faults, figures), level="L0", name="weights").facts
    said = sentences.line(row, "en")
    moved = "8 matrices moved (share ≥ 0.500, cosine ≥ 0.700), 99 tensors untouched"
    assert said.startswith(f"  L0 weights: failed · {moved} · t0: differs from the base; t1: ")
    assert said.endswith("t9: differs from the base; and 2 more")
    assert sentences.line(json.loads(json.dumps(row)), "zh").startswith("  L0 权重: 未通过 · 8 个矩阵已改变")
    skipped = {"level": "L1", "name": "LM Studio's versions", "verdict": "skipped", "figures": {}}
    assert "建立它的环境" in sentences.line(skipped | {"faults": [{"fault": "not_made"}]}, "zh")


def test_what_another_version_wrote_is_said_as_it_is() -> None:
    old = {"level": "L3", "name": "LM Studio itself", "verdict": "skipped", "figures": {}, "note": "没有运行"}
    assert sentences.line(old, "en") == "  L3 LM Studio itself: skipped · 没有运行"
    new = {"level": "L9", "name": "dreams", "verdict": "failed", "figures": {"x": 1}}
    new |= {"faults": [{"fault": "odd", "file": "a"}]}
    assert sentences.line(new, "en") == "  L9 dreams: failed · odd (file a)"
    short = {"level": "L0", "name": "weights", "verdict": "failed", "figures": {"adapted": 3}}
    short |= {"faults": [{"fault": "lost", "module": "m"}]}
    assert sentences.line(short, "en") == "  L0 weights: failed · lost (module m)"


LEVEL = """
from medtune.deployment.proof import Subject, Verdict

NAME = {"en": "crystal ball", "zh": "水晶球"}
AFTER_COMMIT = False
FIGURES = {"en": "{visions} visions", "zh": "{visions} 个幻象"}
SENTENCES = {"fog": {"en": "fog over {place}", "zh": "{place}上有雾"}}


def check(subject: Subject) -> Verdict:
    return Verdict.of([{"fault": "fog", "place": subject.key}], {"visions": 3})
"""


def test_a_level_is_one_file(good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "l0_ball.py").write_text(LEVEL, encoding="utf-8")
    monkeypatch.setattr(proof, "__path__", [*proof.__path__, str(tmp_path)])
    try:
        verdict = next(verdict for verdict in proof.run(good.subject) if verdict.name == "crystal ball")
        row = verdict.facts
        assert (row["level"], row["name"], row["verdict"]) == ("L0", "crystal ball", "failed")
        assert sentences.line(row, "en") == "  L0 crystal ball: failed · 3 visions · fog over medtune/small-v2"
        assert sentences.line(row, "zh") == "  L0 水晶球: 未通过 · 3 个幻象 · medtune/small-v2上有雾"
        run = fakerun.write_run(tmp_path / "run")
        receipt = Receipt.read(run / "deployment.json")
        receipt.results["proofs"] = [row]
        receipt.write(run / "deployment.json")
        english, chinese = (markdown.render(gather(run), lang, "", set()) for lang in ("en", "zh"))
    finally:
        sys.modules.pop("medtune.deployment.proof.l0_ball", None)
        vars(proof).pop("l0_ball", None)
    assert "| L0 crystal ball | ❌ failed | 3 visions | fog over medtune/small-v2 |" in english
    assert "| L0 水晶球 | ❌ 未通过 | 3 个幻象 | medtune/small-v2上有雾 |" in chinese
    assert "The proof `crystal ball` failed" in english and "0 of 1 levels passed; crystal ball: fog over" in english


def test_the_pinned_level_asks_for_its_own_stack(good: Good, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "interpreter", lambda: None)
    assert l1_pinned.check(good.subject) == Verdict.skipped("not_made")
    monkeypatch.setattr(stack, "interpreter", lambda: Path("/its/python"))
    monkeypatch.setattr(behaviour, "check", lambda subject, python: Verdict("passed", {"python": str(python)}))
    assert l1_pinned.check(good.subject).figures == {"python": "/its/python"}
