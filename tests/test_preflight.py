"""The checks before the long run: a sound model passes, each kind of silent failure is caught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from medtune import cli
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.model import adapters
from medtune.model.architecture import Activations, Architecture
from medtune.model.base import Base
from medtune.model.renderer import Renderer
from medtune.schemas import TrainConfig
from medtune.training import preflight
from medtune.training.dataloader import DataLoader
from medtune.training.examples import RecordKind
from medtune.training.step import Step
from medtune.training.trunk import Trunk
from medtune.training.weighting import Lesson
from tests.workshop import SETTINGS, settings_file, write_dataset
from tools import train_final


class Bench:
    """An adapted twin with its lessons and probes, run live."""

    def __init__(self, model: Path, folder: Path) -> None:
        base = Base.find(str(model))
        self.renderer, dataset = Renderer(base), Dataset.open(write_dataset(folder, model))
        records = [record for record in dataset.split("train") if record.label == 1]
        examples = [self.renderer.encode(record, dataset.root) for record in records]
        self.kinds = {
            RecordKind.of(record): (record, example) for record, example in zip(records, examples, strict=True)
        }
        self.lessons = [Lesson(example, example.token_weights) for example in examples]
        self.probes = preflight.probes(self.lessons, folder / "probes")
        config = TrainConfig.model_validate({"base_model": "x", **SETTINGS})
        self.architecture = Architecture.of(base.load())
        adapters.attach(self.architecture.model, config.lora)
        self.step = Step(self.architecture, 2, config, compiled=False, checkpoint=False)

    def check(self, trunk: Any = None) -> list[str]:
        trunk = trunk or Trunk(self.architecture, self.renderer, 2)
        return preflight.check(
            self.step,
            DataLoader(self.probes, trunk),
            DataLoader(self.lessons, trunk),
            range(len(self.lessons)),
            self.renderer,
            self.kinds,
        )


@pytest.fixture
def bench(dense_twin: Path, tmp_path: Path) -> Bench:
    return Bench(dense_twin, tmp_path)


class Changed(Trunk):
    """A trunk with something wrong."""

    def __init__(self, bench: Bench, change: Any) -> None:
        super().__init__(bench.architecture, bench.renderer, 2)
        self.change = change

    def __call__(self, examples: Any) -> Activations:
        return self.change(super().__call__, examples)


def test_a_sound_model_passes_and_nothing_of_it_has_changed(bench: Bench):
    before = {name: mx.array(value) for name, value in tree_flatten(bench.step.model.trainable_parameters())}
    state = dict(tree_flatten(bench.step.optimizer.state))
    found = bench.check()
    assert len(found) == 3 and "another image moves the loss" in found[0]
    after = dict(tree_flatten(bench.step.model.trainable_parameters()))
    assert all(mx.array_equal(before[name], after[name]).item() for name in before)
    assert state.keys() == dict(tree_flatten(bench.step.optimizer.state)).keys()


def test_a_model_in_which_a_token_sees_a_later_one_is_caught(bench: Bench):
    def leak(run: Any, examples: Any) -> Activations:
        made = run(examples)
        return made._replace(h=made.h + made.h[:, -1:] + mx.roll(made.h, -1, axis=1))

    with pytest.raises(UserError, match="a later token moves an earlier loss"):
        bench.check(Changed(bench, leak))


def test_a_model_that_does_not_look_at_its_images_is_caught(bench: Bench):
    def blind(run: Any, examples: Any) -> Activations:
        first = bench.probes[2].example
        same = [
            replace(e, images=first.images) if e.images and len(e.tokens) == len(first.tokens) else e for e in examples
        ]
        return run(same)

    with pytest.raises(UserError, match="the images do not reach the model"):
        bench.check(Changed(bench, blind))


def test_an_answer_whose_end_is_not_learned_is_caught(bench: Bench):
    lesson = bench.lessons[0]
    token_weights = lesson.token_weights.copy()
    token_weights[token_weights.nonzero()[0][-1]] = 0  # the end token
    bench.lessons[0] = replace(lesson, token_weights=token_weights)
    with pytest.raises(UserError, match=f"1 answers end with a token that does not stop .*{lesson.example.id}"):
        bench.check()


def test_adapters_that_cannot_learn_are_caught(bench: Bench):
    with adapters.scaled(bench.architecture.model, 0.0), pytest.raises(UserError, match="are not learned"):
        bench.check()


def test_the_preview_colours_what_is_learned_and_stays_out_of_logs(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    preflight.preview(bench.lessons, bench.renderer)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    text = preflight._coloured(bench.lessons[0], bench.renderer)
    learned = "".join(text.plain[span.start : span.end] for span in text.spans if span.style == "green")
    assert learned.endswith("<|im_end|>") and "属于1级高血压" in learned and "血压要紧吗" not in learned


def test_a_step_that_does_not_fit_is_cut_finer_and_gives_the_same_adapters(
    dense_twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(cli, "CACHE", tmp_path / "trunk")
    dataset = write_dataset(tmp_path, dense_twin)
    config = settings_file(tmp_path / "train.yaml", dense_twin, select={"by": "last", "patience": None})

    def train(run: Path) -> int:
        return cli.call(train_final.main, [str(dataset), "--config", str(config), "--out", str(run)])

    assert train(tmp_path / "roomy") == 0
    honest = Step.__call__

    def tight(self: Step, micro: Any, step: int, whole: Any) -> Any:
        if step >= 3 and any(len(batch.ids) > 1 for batch in micro):
            raise RuntimeError("[metal::malloc] Attempting to allocate 9 bytes")
        return honest(self, micro, step, whole)

    monkeypatch.setattr(Step, "__call__", tight)
    capsys.readouterr()
    assert train(tmp_path / "tight") == 0
    out = capsys.readouterr().out
    assert "2 micro-batches" in out and "4 micro-batches" in out
    a, b = (mx.load(str(tmp_path / run / "adapters.safetensors")) for run in ("roomy", "tight"))
    for name in a:
        assert mx.allclose(a[name], b[name], rtol=1e-3, atol=2e-5), name

    monkeypatch.setattr(Step, "__call__", lambda *a: (_ for _ in ()).throw(RuntimeError("Insufficient Memory")))
    assert train(tmp_path / "none") == 1
    assert "make plan" in capsys.readouterr().err
