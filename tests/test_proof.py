"""The proof refuses what would not answer as base + adapter does, and says why."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from medtune import files, lmstudio
from medtune.demo.random_model import write_twin
from medtune.deployment import deltas, folder, fuse, inspection, proof
from medtune.deployment import template as templates
from medtune.deployment.client import Server
from medtune.deployment.proof import Subject, behaviour, canaries, l0_lint, l0_weights, l3_served, references, stack
from medtune.deployment.proof.references import Reference, References
from medtune.model.base import Base
from medtune.model.tensors import INDEX, Weights
from tests.deployed import ATTENTION, write_run

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
    weights, template = Weights.open(base.path), templates.with_system_prompt(base.chat_template, SYSTEM)
    changes = fuse.plan(weights, base.quantization, deltas.read(run), "auto")
    made = root / "models" / "medtune" / "small-v2"
    made.mkdir(parents=True)
    fuse.write(weights, changes, made)
    folder.write(base, folder.Text(template, fuse.quantization_after(base.quantization, changes), "card"), made)
    asked = canaries.built_in(root / "canaries", SYSTEM)
    recorded = references.record(base, run, asked, SYSTEM)
    subject = Subject(made, base, [change.delta for change in changes], template, recorded, "medtune/small-v2")
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
    folder.write(good.base, folder.Text(good.subject.template, quantization, "card"), path)


def _foreign_template(good: Good, path: Path) -> None:
    foreign = good.subject.template.replace("<|im_start|>user", "<|im_start|>human")
    (path / folder.TEMPLATE).write_text(foreign, encoding="utf-8")
    for name in folder.TEMPLATE_COPIES:
        files.write_json(path / name, files.read_json(path / name) | {"chat_template": foreign})


def _no_preprocessor(good: Good, path: Path) -> None:
    (path / "preprocessor_config.json").unlink()


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
    "foreign template": (_foreign_template, "not the one of the training"),
    "no preprocessor": (_no_preprocessor, "older engines refuse images"),
    "symbolic link": (_linked, "a symbolic link"),
    "no format in the header": (_no_format, "does not say format: mlx"),
    "another tensor": (_another_tensor, "model.norm.weight: differs from the base"),
    "another tokenizer": (_another_tokenizer, r"merges.txt: not the base's own"),
}


def _spoiled(good: Good, tmp_path: Path, kind: str) -> Subject:
    path = tmp_path / "medtune" / "small-v2"
    shutil.copytree(good.folder, path)
    SPOILED[kind][0](good, path)
    return dataclasses.replace(good.subject, folder=path)


def test_a_good_folder_passes_and_every_figure_is_told(good: Good) -> None:
    assert l0_lint.check(good.subject) == ("passed", {"problems": 0}, "")
    kind, figures, note = l0_weights.check(good.subject)
    assert (kind, note, figures["adapted"]) == ("passed", "", len(good.changes))
    assert figures["least_share"] > 0.95 and figures["least_cosine"] > 0.95
    parts = {part.name for change in good.changes for part in change.matrix.parts}
    assert figures["untouched"] == len(set(Weights.open(good.base.path).tensors) - parts)


@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoiled_folder_is_refused_by_its_files_or_weights(good: Good, tmp_path: Path, kind: str) -> None:
    subject = _spoiled(good, tmp_path, kind)
    verdict, _, note = l0_lint.check(subject)
    if verdict == "passed":
        verdict, _, note = l0_weights.check(subject)
    assert verdict == "failed" and SPOILED[kind][1] in note


def test_the_first_failed_level_ends_the_proof(good: Good, tmp_path: Path) -> None:
    verdicts = list(proof.run(_spoiled(good, tmp_path, "4 bits again")))
    assert [(v.level, v.verdict) for v in verdicts] == [("L0", "passed"), ("L0", "failed")]


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
        (4, "tuned", "other", "other tokens than in training"),
        (3, "base", "other", "answers like the base model"),
        (3, "strange", "other", "answers differ from base + adapter"),
        (3, "tuned", "tuned", "vision is not in effect"),
    ],
)
def test_each_way_to_answer_wrongly_has_its_sentence(tokens: int, answer: str, other: str, fault: str | None) -> None:
    rows = {name: _row(seed=seed) for seed, name in enumerate(("tuned", "base", "other", "strange"))}
    item = _reference(rows["tuned"], rows["base"], rows["other"])
    figures = behaviour.compare([item], {"c": behaviour.Answers(np.arange(tokens), rows[answer], rows[other])})
    found = behaviour.faults(figures)
    assert (found == []) if fault is None else any(fault in sentence for sentence in found)


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
    rows = [
        {"id": "1", "model": "tuned", "prompt": [{"role": "user", "content": "x"}], "images": []},
        {"id": "1", "model": "baseline", "prompt": [{"role": "user", "content": "x"}], "images": []},
        {"id": "mine/chats:2", "model": "tuned", "prompt": [{"role": "user", "content": "<image>y"}],
         "images": [str(red)]},
        {"id": "3", "model": "tuned", "prompt": [{"role": "user", "content": "<image>y"}], "images": ["gone.png"]},
    ]  # fmt: skip
    files.write_jsonl(tmp_path / "predictions.jsonl", map(json.dumps, rows))
    text, image = canaries.from_predictions(tmp_path / "predictions.jsonl", tmp_path)
    assert (text.id, image.id) == ("1", "mine/chats:2")
    with Image.open(image.other[0]) as other:
        assert other.size == (80, 64) and other.getpixel((0, 0)) == (0, 255, 255)
    assert canaries.from_predictions(tmp_path / "none.jsonl", tmp_path) == []


def test_the_doctor_explains_the_layout_of_the_first_version(good: Good, tmp_path: Path) -> None:
    said = "\n".join(inspection.report(_spoiled(good, tmp_path, "adapter beside base").folder))
    assert "serves the base model, because it loads only the files its index names" in said
    (tmp_path / "medtune" / "small-v2" / INDEX).unlink()
    said = "\n".join(inspection.report(tmp_path / "medtune" / "small-v2"))
    assert "refuses the folder" in said
    assert "loads it as medtune/small-v2" in "\n".join(inspection.report(good.folder))
    (tmp_path / "empty").mkdir()
    assert "does not see a model here" in "\n".join(inspection.report(tmp_path / "empty"))


def test_the_doctor_sees_json_that_is_none(good: Good, tmp_path: Path) -> None:
    shutil.copytree(good.folder, tmp_path / "m")
    config = (tmp_path / "m" / "config.json").read_text()
    (tmp_path / "m" / "config.json").write_text(config.replace("10000.0", "Infinity", 1))
    assert "Infinity is not JSON" in "\n".join(inspection.report(tmp_path / "m"))


# --- L3: the app, played by a script for `lms` and a server with its recorded forms of answer ---


class App:
    """LM Studio as far as the proof sees it."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.log = home, home / "lms.log"
        self.listed: list[dict[str, Any]] = [
            {"type": "llm", "modelKey": "small-v2", "format": "safetensors", "vision": True, "sizeBytes": 1,
             "path": "medtune/small-v2", "architecture": "qwen3_vl", "maxContextLength": 4096}
        ]  # fmt: skip
        self.running, self.port = True, port

    def install(self) -> None:
        program = self.home / "bin" / "lms"
        program.parent.mkdir(parents=True, exist_ok=True)
        status = json.dumps({"running": self.running, "port": self.port})
        program.write_text(
            f'#!/bin/sh\necho "$@" >> \'{self.log}\'\ncase "$1" in\n'
            f"ls) echo '{json.dumps(self.listed)}';;\nserver) echo '{status}';;\nesac\n"
        )
        program.chmod(0o755)


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
    ],
)
def test_the_apps_answers_decide(
    good: Good, app: App, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Reference], str], verdict: str
) -> None:
    app.install()
    subject = _telling(good, app.home)
    _says(monkeypatch, answer, subject.references.items)
    found, figures, _ = l3_served.check(subject)
    assert found == verdict and figures["asked"] == figures["telling"] == len(subject.references.items)
    log = app.log.read_text().splitlines()
    assert any(line.startswith("load small-v2 --exact --identifier medtune-verify") for line in log)
    assert log[-1] == "unload medtune-verify"


def test_what_keeps_the_app_from_being_asked_is_said_and_is_no_fault(good: Good, app: App) -> None:
    subject = _telling(good, None)
    assert l3_served.check(subject)[::2] == ("skipped", "LM Studio is not installed here")
    subject = dataclasses.replace(subject, home=app.home)
    assert "lms command is missing" in l3_served.check(subject)[2]
    app.running = False
    app.install()
    assert "server start" in l3_served.check(subject)[2]
    app.running, app.listed = True, []
    app.install()
    assert "restart the app" in l3_served.check(subject)[2]


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
    kind, figures, note = behaviour.check(good.subject, python)
    assert (kind, note) == ("passed", "")
    assert figures["kl_to_tuned"] < 1e-3 and figures["kl_to_base_mean"] > 10 * figures["kl_to_tuned_mean"]


LOADED = {
    "adapter beside base": r"answers like the base model",
    "vision stripped": r"does not load|vision is not in effect",
    "4 bits again": r"answers like the base model",
    "foreign template": r"other tokens",
}


@pytest.mark.slow("loads each spoiled folder in each interpreter that is there")
@pytest.mark.parametrize("python", _interpreters())
@pytest.mark.parametrize("kind", LOADED)
def test_a_spoiled_folder_betrays_itself_by_its_answers_in(good: Good, tmp_path: Path, python: Path, kind: str) -> None:
    import re

    verdict, _, note = behaviour.check(_spoiled(good, tmp_path, kind), python)
    assert verdict == "failed" and re.search(LOADED[kind], note), note


def test_the_apps_interpreter_is_asked_where_it_is_installed(good: Good, tmp_path: Path) -> None:
    from medtune.deployment.proof import l2_app

    assert l2_app.check(good.subject)[0] == "skipped"
    at = dataclasses.replace(good.subject, home=tmp_path)
    assert "no MLX engine" in l2_app.check(at)[2]
    python = tmp_path / lmstudio.ENGINES / "app-mlx-generate-mac14-arm64@33" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'ImportError: no Metal here' >&2\nexit 1\n")
    python.chmod(0o755)
    assert l2_app.check(at)[2] == "the folder does not load: ImportError: no Metal here"
