"""The bench: the same job for every contender, the same losses, and figures that can say a bar is missed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_vlm.trainer.vlm.sft.dataset import VisionDataset

from medtune import cli, files
from medtune.bench import chart, contenders, figures, job, model, runner
from medtune.bench.job import Job, Work
from medtune.bench.model import ModelSize
from medtune.bench.rows import Mix
from medtune.bench.watch import Watch
from medtune.dataset import Dataset
from medtune.errors import UserError
from medtune.model import published
from medtune.model.base import Base
from medtune.model.renderer import Renderer
from tools import bench_training

SMALL = ModelSize(layers=3, hidden=128)
WORK = Work(epochs=1, adapted=2, rank=4, alpha=8.0, learning_rate=1e-2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return job.write(tmp_path_factory.mktemp("job"), SMALL, Mix(train=28, valid=14, longest=120), WORK)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "CACHE", tmp_path / "trunk")


def test_all_contenders_see_the_same_tokens_and_the_same_targets_in_the_same_order(made: Job):
    base = Base.find(str(made.model))
    renderer, dataset = Renderer(base), Dataset.open(made.data("all"))
    rows = [row for _, row in files.read_jsonl(made.rows("all") / "train.jsonl")]
    theirs = VisionDataset(rows, base.config, renderer.processor, {"train_on_completions": True})
    assert len(rows) == len(dataset.split("train")) == 28
    for index, record in enumerate(dataset.split("train")):
        ours, other = renderer.encode(record, dataset.root), theirs[index]
        assert np.array(other["input_ids"]).tolist() == ours.tokens.tolist()
        assert np.array(other["completion_mask"]).tolist() == ours.token_weights.tolist()
        assert made.lengths[index] == len(ours.tokens)
        assert ("pixel_values" in other) == bool(record.images) == (index in made.pictured)


def test_the_text_rows_are_the_others_without_those_that_have_an_image(made: Job):
    everything, text = (
        [row for _, row in files.read_jsonl(made.rows(kind) / "train.jsonl")] for kind in ("all", "text")
    )
    assert [row for row in everything if "images" not in row] == text
    assert len(everything) - len(text) == len(made.pictured) == 4


def test_no_batch_mixes_text_and_images_and_an_epoch_sees_every_row_once(made: Job):
    order = made.order("all")
    assert sorted(index for batch in order for index in batch) == list(range(28))
    assert len({frozenset(i in made.pictured for i in batch) for batch in order}) == 2
    assert all(len({i in made.pictured for i in batch}) == 1 for batch in order)


@pytest.mark.parametrize("name", ["cached", "plain"])
def test_the_loss_curve_is_that_of_mlx_vlm_train_on_the_same_batches(made: Job, name: str):
    curves = {}
    for contender in ("vlm", name):
        watch = Watch(0.0)
        contenders.get(contender).run(made, watch)
        curves[contender] = [*watch.losses, watch.val_loss]
    assert len(curves["vlm"]) == 15 and curves["vlm"][0] > 1.05 * curves["vlm"][-1]
    assert curves[name] == pytest.approx(curves["vlm"], rel=1e-4)


def test_the_four_bit_model_is_that_of_the_published_shape(made: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny = files.read_json(made.model / "config.json")
    tiny["text_config"] |= {"vocab_size": tiny["vocab_size"] + 100, "num_hidden_layers": 2}
    monkeypatch.setattr(published, "config", lambda name: tiny if name == "published" else None)
    folder = model.write(tmp_path / "published", ModelSize(published="published"))
    base = Base.find(str(folder))
    tensors: dict[str, Any] = dict(tree_flatten(base.load().parameters()))
    assert base.quantization and base.quantization["bits"] == 4
    assert tensors["language_model.lm_head.weight"].dtype == mx.uint32
    assert tensors["language_model.lm_head.weight"].shape[0] == tiny["text_config"]["vocab_size"]
    assert tensors["vision_tower.blocks.0.attn.qkv.weight"].dtype != mx.uint32
    with pytest.raises(ValueError, match=r"not in medtune\.known"):
        model.write(tmp_path / "unknown", ModelSize(published="unknown"))


def run(seconds: float, peak: int, steps: int = 20) -> figures.Watched:
    ends = [5.0 + seconds * step for step in range(steps)]
    watch = Watch(0.0, ends, [3.0 - 0.1 * step for step in range(steps)], 1.0, peak=peak, finished=ends[-1] + 1)
    return vars(watch)


def test_figures_are_medians_of_the_steady_steps():
    tokens = [100] * 20
    rows = [run(0.5, 10), run(0.2, 30), run(9.0, 20)]
    found = figures.Figures.of("ours", rows, tokens, epochs=2)
    assert found.tokens_per_sec == pytest.approx(200) and found.step_seconds == pytest.approx(0.5)
    assert found.first_step == 5 and found.first_epoch == pytest.approx(9.5) and found.peak == 20


def test_a_stall_before_the_steady_state_costs_time_but_no_speed():
    stalled = run(0.5, 10)
    stalled["ends"] = [stalled["ends"][0]] + [end + 60 for end in stalled["ends"][1:]]
    found = figures.Figures.of("ours", [stalled], [100] * 20, epochs=1)
    assert found.tokens_per_sec == pytest.approx(200) and found.first_epoch == pytest.approx(5 + 60 + 9.5)


@pytest.mark.parametrize(("seconds", "peak", "reached"), [(0.1, 10, True), (0.4, 10, False), (0.1, 60, False)])
def test_a_bar_that_is_missed_is_said_to_be_missed(seconds: float, peak: int, reached: bool):
    rows = {"vlm": run(1.0, 100), "cached": run(seconds, peak)}
    found = {name: figures.Figures.of(name, [row], [100] * 20, 1) for name, row in rows.items()}
    ratios = figures.ratios(found, {name: row["losses"] for name, row in rows.items()})
    assert [ratio.value for ratio in ratios[:1]] == [pytest.approx(1 / seconds)]
    assert (ratios[0].reached and ratios[3].reached) is reached


def test_losses_that_part_are_seen():
    rows = {"vlm": run(1.0, 100), "cached": run(1.0, 100)}
    rows["cached"]["losses"][7] *= 1.001
    found = {name: figures.Figures.of(name, [row], [100] * 20, 1) for name, row in rows.items()}
    worst = figures.ratios(found, {name: row["losses"] for name, row in rows.items()})[4]
    assert worst.value == pytest.approx(1e-3) and not worst.reached


def test_a_contender_that_fails_is_one_line_naming_its_log(tmp_path: Path):
    with pytest.raises(UserError, match=r"ours: exit code 1 .*cached\.log"):
        runner.measure("cached", tmp_path)


def test_a_second_job_replaces_the_first_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    mix = Mix(train=4, valid=2, longest=60)
    for layers in (4, 5):
        written = job.write(Path("."), ModelSize(layers, 128), mix, Work(epochs=1))
        assert (
            written.folder.is_absolute()
            and Job.read(tmp_path) == written
            and Dataset.open(written.data("all")).split("train")
        )


def test_a_width_that_does_not_divide_into_heads_is_refused(tmp_path: Path):
    assert cli.call(bench_training.main, ["--out", str(tmp_path), "--hidden", "100"]) == 1


@pytest.mark.slow("trains once with each contender, in processes of their own")
def test_the_tool_measures_every_contender_and_writes_table_figure_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    size = ["--rows", "14", "--layers", "6", "--hidden", "128", "--epochs", "1", "--repeats", "1"]
    assert cli.call(bench_training.main, ["--out", "made", *size]) == 0
    tmp_path = tmp_path / "made"  # as make calls it: a folder of the one it runs in
    found = json.loads((tmp_path / "bench.json").read_text())
    assert set(found["contenders"]) == set(contenders.ORDER)
    for figures_of in found["contenders"].values():
        assert all(math.isfinite(value) for value in figures_of.values() if isinstance(value, float))
        assert figures_of["tokens_per_sec"] > 0 and figures_of["process_peak"] > figures_of["peak"] > 0
    losses = {name: rows[0]["losses"] for name, rows in found["runs"].items()}
    assert losses["cached"] == pytest.approx(losses["vlm"], rel=1e-4)
    said = capsys.readouterr().out
    assert "mlx_vlm.train" in said and "mlx_lm.lora" in said and "steady state" in said
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_drawn_of_whatever_ran(tmp_path: Path):
    rows = {"vlm": [run(1.0, 100)]}
    found = {"vlm": figures.Figures.of("mlx_vlm.train", rows["vlm"], [100] * 20, 1)}
    chart.draw(tmp_path / "one.png", found, rows)
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
