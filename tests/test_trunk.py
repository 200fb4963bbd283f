"""The trunk and its cache: the same losses and gradients as the model as a whole, on every kind of model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_vlm.trainer.vlm.sft.runtime import vlm_sft_loss

from medtune import cli, files
from medtune.dataset import Dataset
from medtune.demo.random_model import write_twin
from medtune.errors import UserError
from medtune.files import folders
from medtune.model import adapters, padding
from medtune.model.architecture import Activations, Architecture
from medtune.model.base import Base
from medtune.model.renderer import Example, Renderer
from medtune.schemas import TrainConfig
from medtune.training import job
from medtune.training.activations import Store
from medtune.training.dataloader import DataLoader
from medtune.training.step import Step
from medtune.training.trunk import Trunk
from medtune.training.weighting import Lesson
from tests.workshop import SETTINGS, prepared, write_dataset

KINDS = {
    "dense": {"moe": False},
    "dense-4bit": {"moe": False, "bits": 4},
    "moe": {"moe": True},
    "moe-4bit": {"moe": True, "bits": 4},
}


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = write_twin(tmp_path_factory.mktemp(request.param), **KINDS[request.param])
    return Base.find(str(folder))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "CACHE", tmp_path / "trunk")


def items(base: Base, folder: Path) -> tuple[Renderer, list[Lesson]]:
    """Right answers as plain lessons."""
    renderer, dataset = Renderer(base), Dataset.open(write_dataset(folder, base.path))
    records = [record for record in dataset.split("train") if record.label == 1]
    examples = [renderer.encode(record, dataset.root) for record in records]
    return renderer, [Lesson(example, example.token_weights) for example in examples]


def config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"base_model": "x", **SETTINGS, **changes})


def fresh(base: Base, settings: TrainConfig, compiled: bool = False) -> tuple[Architecture, Step]:
    """The adapted model with adapters that do something."""
    mx.random.seed(1)
    architecture = Architecture.of(base.load())
    adapters.attach(architecture.model, settings.lora)
    noise = [(k, mx.random.normal(v.shape) * 0.05) for k, v in tree_flatten(architecture.model.trainable_parameters())]
    architecture.model.load_weights(noise, strict=False)
    first = settings.lora.frozen(len(architecture.layers))
    return architecture, Step(
        architecture, first, settings, compiled=compiled, checkpoint=settings.grad_checkpoint == "on"
    )


def gradients(step: Step, loader: DataLoader, chosen: list[int]) -> tuple[float, dict[str, mx.array]]:
    (batch,) = loader.stream([chosen])
    loss, _, grads = step.gradients([batch])
    return loss.item(), dict(tree_flatten(grads))


def assert_same(a: tuple[float, dict[str, mx.array]], b: tuple[float, dict[str, mx.array]], tolerance: float) -> None:
    assert a[0] == pytest.approx(b[0], rel=tolerance)
    assert a[1].keys() == b[1].keys()
    for name, value in a[1].items():
        scale = mx.abs(value).max().item() + 1e-8
        assert mx.abs(value - b[1][name]).max().item() <= tolerance * scale + 1e-7, name


def test_with_all_weights_one_loss_and_every_gradient_are_those_of_mlx_vlm(base: Base, tmp_path: Path):
    settings = config()
    renderer, weighted = items(base, tmp_path)
    architecture, step = fresh(base, settings)
    loader = DataLoader(weighted, Trunk(architecture, renderer, step.first))
    chosen = [*[i for i, item in enumerate(weighted) if item.example.images][:2], 0, 1]
    ours = gradients(step, loader, chosen)
    examples = [weighted[i].example for i in chosen]
    pixels = [renderer.pixels(example) for example in examples if example.images]
    tokens = padding.token_matrix([example.tokens for example in examples])
    supervised = np.zeros_like(tokens)
    for row, example in enumerate(examples):
        supervised[row, : len(example.token_weights)] = example.token_weights > 0
    batch = {
        "input_ids": mx.array(tokens),
        "attention_mask": mx.ones_like(mx.array(tokens)),
        "completion_mask": mx.array(supervised),
        "pixel_values": mx.array(np.concatenate([p for p, _ in pixels])),
        "image_grid_thw": mx.array(np.concatenate([g for _, g in pixels])),
    }

    def theirs(model):
        return vlm_sft_loss(model, batch, train_on_completions=True)[0]

    import mlx.nn as nn

    loss, grads = nn.value_and_grad(architecture.model, theirs)(architecture.model)
    assert_same(ours, (loss.item(), dict(tree_flatten(grads))), 1e-4)


@pytest.mark.parametrize("layers", [1, 2, -1])
def test_losses_and_gradients_with_and_without_the_cache_agree(base: Base, tmp_path: Path, layers: int):
    settings = config(lora=SETTINGS["lora"] | {"num_layers": layers})
    renderer, weighted = items(base, tmp_path)
    architecture, step = fresh(base, settings)
    live = DataLoader(weighted, Trunk(architecture, renderer, step.first))
    store = job.open_store(cli.CACHE, base, architecture, step.first)
    job.fill_store(store, base, renderer, step.first, 99, [item.example for item in weighted])
    cached = DataLoader(weighted, store)
    images = [i for i, item in enumerate(weighted) if item.example.images][:3]
    for chosen in ([0, 1, 2], images, [3, images[0]]):
        assert_same(gradients(step, live, chosen), gradients(step, cached, chosen), 1e-4)


def test_layers_streamed_a_few_at_a_time_store_the_same_activations(base: Base, tmp_path: Path):
    renderer, weighted = items(base, tmp_path)
    examples = [item.example for item in weighted]
    stored = []
    for group in (3, 1):
        architecture = Architecture.of(base.load())
        form = job.open_store(cli.CACHE, base, architecture, 3).form
        store = Store(tmp_path / f"group{group}", form)
        store.fill(Trunk(architecture, renderer, 3), examples, group, lambda tokens: None)
        stored.append(store.batch([example.key for example in examples], 160).h)
    assert np.abs(stored[0] - stored[1]).max() <= 1e-4 * np.abs(stored[0]).max()


def test_checkpointed_layers_give_the_same_gradients(base: Base, tmp_path: Path):
    renderer, weighted = items(base, tmp_path)
    results = []
    for mode in ("off", "on"):
        architecture, step = fresh(base, config(grad_checkpoint=mode))
        results.append(gradients(step, DataLoader(weighted, Trunk(architecture, renderer, step.first)), [0, 1, 2]))
    assert_same(results[0], results[1], 1e-5)


def test_a_compiled_step_learns_what_one_that_is_not_learns(base: Base, tmp_path: Path):
    """As on a GPU: several shapes, text and images, dropout drawn inside, weights that change between calls."""
    settings = config(lora=SETTINGS["lora"] | {"dropout": 0.1})
    renderer, weighted = items(base, tmp_path)
    images = [i for i, item in enumerate(weighted) if item.example.images][:2]
    results = []
    for compiled in (False, True):
        architecture, step = fresh(base, settings, compiled)
        loader = DataLoader(weighted, Trunk(architecture, renderer, step.first))
        mx.random.seed(3)
        losses = []
        for number, batch in enumerate(loader.stream([[0, 1], images, [2, 3], [0, 1]]), 1):
            outcome = step([batch], number, batch.size)
            losses += [outcome.loss.item(), outcome.grad_norm.item(), *step.evaluate(batch).nll.tolist()]
        results.append((losses, dict(tree_flatten(architecture.model.trainable_parameters()))))
    (plain, own), (fused, others) = results
    assert fused == pytest.approx(plain, rel=1e-4)
    assert all(mx.allclose(own[name], others[name], rtol=1e-3, atol=1e-5).item() for name in own)


def test_a_later_token_does_not_move_an_earlier_activation(base: Base, tmp_path: Path):
    renderer, weighted = items(base, tmp_path)
    architecture = Architecture.of(base.load())
    example = weighted[0].example
    changed = example.tokens.copy()
    changed[-3] = changed[0]
    trunk = Trunk(architecture, renderer, 4)
    a = trunk([example])
    b = trunk([replace(example, tokens=changed)])
    cut = len(changed) - 3
    assert mx.allclose(a.h[:, :cut], b.h[:, :cut], atol=1e-6)
    assert not mx.allclose(a.h[:, cut:], b.h[:, cut:], atol=1e-3)


def test_only_examples_that_are_new_are_run_and_another_model_has_another_store(
    dense_twin: Path, moe_twin: Path, tmp_path: Path
):
    base = Base.find(str(dense_twin))
    renderer, weighted = items(base, tmp_path)
    architecture = Architecture.of(base.load())
    store = job.open_store(cli.CACHE, base, architecture, 2)
    examples = [item.example for item in weighted]
    job.fill_store(store, base, renderer, 2, 99, examples[:5])
    assert len(store.missing(examples)) == len(examples) - 5
    job.fill_store(store, base, renderer, 2, 99, examples)
    again = job.open_store(cli.CACHE, base, architecture, 2)
    assert again.missing(examples) == []
    other = Base.find(str(moe_twin))
    assert job.open_store(cli.CACHE, other, Architecture.of(other.load()), 2).folder != store.folder
    assert job.open_store(cli.CACHE, base, architecture, 1).folder != store.folder


def test_another_image_under_the_same_name_is_another_example(dense_twin: Path, tmp_path: Path):
    from PIL import Image

    def example(colour: tuple[int, int, int]) -> Example:
        """The example of one question about one picture, prepared as it is now."""
        Image.new("RGB", (64, 64), colour).save(tmp_path / "same.png")
        dataset = Dataset.open(prepared(tmp_path, dense_twin, tmp_path / "dataset"))
        (record,) = dataset.split("train")
        return Renderer(Base.find(str(dense_twin))).encode(record, dataset.root)

    turns = [{"role": "user", "content": "<image>这是什么?"}, {"role": "assistant", "content": "一张片子"}]
    files.write_jsonl(tmp_path / "records.jsonl", [json.dumps({"messages": turns, "images": ["same.png"]})])
    before, after = example((200, 0, 0)), example((1, 2, 3))
    assert before.tokens.tolist() == after.tokens.tolist() and before.key != after.key


def test_an_image_changed_after_it_was_prepared_is_refused(dense_twin: Path, tmp_path: Path):
    from PIL import Image

    dataset = Dataset.open(write_dataset(tmp_path, dense_twin))
    stored = next(dataset.root / record.images[0] for record in dataset.split("train") if record.images)
    with Image.open(stored) as image:
        Image.new("RGB", image.size, (1, 2, 3)).save(stored)
    with pytest.raises(UserError, match="images are missing, broken or changed"):
        dataset.split("train")


def test_an_images_bytes_are_not_read_to_tell_examples_apart(dense_twin: Path, tmp_path: Path, monkeypatch):
    _, weighted = items(Base.find(str(dense_twin)), tmp_path)
    monkeypatch.setattr(files, "sha256", lambda path: pytest.fail(f"{path} hashed again"))
    assert len({item.example.key for item in weighted}) == len(weighted)


def test_a_disk_that_is_too_small_is_refused_with_both_figures(
    dense_twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base = Base.find(str(dense_twin))
    renderer, weighted = items(base, tmp_path)
    monkeypatch.setattr(folders, "free_bytes", lambda folder: 1000)
    store = job.open_store(cli.CACHE, base, Architecture.of(base.load()), 2)
    with pytest.raises(UserError, match=r"needs .* KiB, 1000 B are free"):
        job.fill_store(store, base, renderer, 2, 99, [item.example for item in weighted])
    assert not store.folder.exists() or not list(store.folder.iterdir())


def test_padding_to_the_right_changes_nothing(base: Base, tmp_path: Path):
    renderer, weighted = items(base, tmp_path)
    short, long = sorted((item.example for item in weighted), key=lambda e: len(e.tokens))[:: len(weighted) - 1]
    trunk = Trunk(Architecture.of(base.load()), renderer, 4)
    alone: Activations = trunk([short])
    together = trunk([short, long])
    size = len(short.tokens)
    assert mx.allclose(alone.h[0, :size], together.h[0, :size], atol=1e-4)
