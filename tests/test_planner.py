"""The planner's figures against the models themselves: counts exactly, memory as MLX reports it."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from workshop import instance, settings_file, sizes, write_dataset

from medtune import cli, config, files, planner
from medtune.dataset import Dataset
from medtune.demo.random_model import write_twin
from medtune.errors import UserError
from medtune.metrics import settings_hash
from medtune.model import published
from medtune.model.architecture import Architecture
from medtune.model.base import Base
from medtune.model.renderer import Renderer
from medtune.planner import Load, Machine, Measured, screen
from medtune.planner.memory import trunk_phase
from medtune.planner.model import CPU, GPU, Model
from medtune.planner.weights import PARTS
from medtune.schemas import TrainConfig
from medtune.training.cluster import ALONE

CONFIGS = Path(__file__).parents[1] / "configs"


def settings(profile: str = "demo", *overrides: str) -> TrainConfig:
    return config.load(TrainConfig, CONFIGS / profile / "train.yaml", overrides)


@pytest.mark.parametrize("name", published.names())
def test_the_built_in_models_have_the_parameters_of_mlx_vlms_classes_module_by_module(name: str) -> None:
    shape = published.config(name)
    assert shape is not None
    assert {module.name: module.size for module in Model(shape, settings(), GPU).modules} == sizes(instance(shape))


def test_a_model_of_another_family_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="gpt2: not supported; choose one of qwen3_vl"):
        planner.plan({"model_type": "gpt2"}, settings(), Load.guess(), GPU, Machine.mac(64)).parameters  # noqa: B018


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen3-VL-2B-Instruct", 2_127_532_032),
        ("Qwen3-VL-4B-Instruct", 4_437_815_808),
        ("Qwen3-VL-8B-Instruct", 8_767_123_696),
        ("Qwen3-VL-30B-A3B-Instruct", 31_070_754_032),
    ],
)
def test_the_built_in_models_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert sum(module.size for module in Model(published.config(name) or {}, settings(), GPU).modules) == parameters


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize("moe", [False, True])
def test_the_weights_take_the_bytes_of_the_loaded_model(tmp_path: Path, moe: bool, bits: int | None) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    folder = write_twin(tmp_path / "twin", moe=moe, bits=bits)
    shape = files.read_json(folder / "config.json")
    stored = mx.load(str(folder / "model.safetensors"))
    assert isinstance(stored, dict)
    expected = sum(value.nbytes for _, value in tree_flatten(stored))
    assert Model(shape, settings(), CPU).nbytes(*PARTS) == expected


def test_the_original_run_trains_35_651_584_parameters_in_136_mib() -> None:
    plan = planned("lora_2000")
    assert sum(plan.trainable.values()) == 35_651_584
    assert plan.adapter_bytes / 2**20 == 136.0
    assert plan.trainable == {"attention": 35_651_584}


def planned(profile: str, *overrides: str, memory: float = 64, load: Load | None = None) -> planner.Plan:
    train = settings(profile, *overrides)
    shape = planner.model_config(train.base_model)
    return planner.plan(shape, train, load or Load.guess(), GPU, Machine.mac(memory))


LORAS = [
    (),
    ("lora.keys=[q_proj, mlp.gate]",),
    ("lora.keys=[gate_proj, up_proj, down_proj]", "lora.num_layers=-1"),
    ("lora.vision=true", "lora.merger=true"),
    ("lora.keys=[v_proj, o_proj]", "lora.dora=true"),
]


@pytest.mark.parametrize("overrides", LORAS)
@pytest.mark.parametrize("moe", [False, True])
def test_the_trainable_parameters_are_those_of_the_attached_adapters(moe: bool, overrides: tuple[str, ...]) -> None:
    from medtune.model import adapters

    if not moe and "mlp.gate" in "".join(overrides):
        overrides = ("lora.keys=[q_proj]",)
    train = settings("demo", "lora.num_layers=2", *overrides)
    shape = twin_config(moe)
    model = instance(shape)
    adapters.attach(model, train.lora)
    census = {kind: count for kind, count in adapters.census(model).items() if count}
    assert planner.plan(shape, train, Load.guess(), CPU, Machine.here()).trainable == census


def twin_config(moe: bool) -> dict[str, Any]:
    """A model large enough that arithmetic, not overhead, decides its memory; small enough for two cores."""
    shape = published.config("Qwen3-VL-30B-A3B-Instruct" if moe else "Qwen3-VL-2B-Instruct")
    assert shape is not None
    head = 32
    shape["text_config"] |= {
        "hidden_size": 256, "num_hidden_layers": 4, "vocab_size": 4000, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": head, "intermediate_size": 768, "tie_word_embeddings": False,
        "rope_scaling": {"type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True},
    }  # fmt: skip
    if moe:
        shape["text_config"] |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 768}
    shape["tie_word_embeddings"] = False
    shape["vision_config"] |= {
        "depth": 1, "hidden_size": 64, "intermediate_size": 64, "out_hidden_size": 256, "num_heads": 4,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    return shape


STEP = ("batch_size=2", "lora.num_layers=3", "trunk_cache=on")


@pytest.mark.parametrize(
    ("moe", "length", "rank", "checkpoint"),
    [(False, 256, 16, "off"), (False, 192, 64, "on"), (True, 192, 16, "off"), (True, 192, 16, "on")],
)
def test_the_peak_of_a_training_step_is_foreseen_within_15_percent(
    moe: bool, length: int, rank: int, checkpoint: str
) -> None:
    train = settings("demo", *STEP, f"lora.rank={rank}", f"grad_checkpoint={checkpoint}")
    shape = twin_config(moe)
    load = Load(records=10, tokens=10 * length, image_tokens=0, supervised=0.25, longest=length)
    plan = planner.plan(shape, train, load, CPU, Machine.here())
    foreseen, measured = sum(plan.phases["training"].values()), peak_of_a_step(shape, train, length)
    print(f"foreseen {foreseen / 1e6:.1f} MB, measured {measured / 1e6:.1f} MB: {foreseen / measured - 1:+.1%}")
    assert abs(foreseen / measured - 1) < 0.15


def peak_of_a_step(shape: dict[str, Any], train: TrainConfig, length: int) -> int:
    """MLX's peak memory over two optimizer steps on stored activations, the trunk's weights dropped."""
    import mlx.core as mx

    from medtune.model import adapters
    from medtune.model.architecture import Architecture
    from medtune.training.step import Step

    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    architecture = Architecture.of(instance(shape))
    first = len(architecture.layers) - train.lora.num_layers
    model = architecture.model
    model.vision_tower = model.language_model.model.embed_tokens = None
    for index in range(first):
        architecture.layers[index] = None
    adapters.attach(model, train.lora)
    step = Step(architecture, first, train, compiled=False, checkpoint=train.grad_checkpoint == "on")
    mx.eval(model.parameters(), step.optimizer.state)
    mx.reset_peak_memory()
    for number in (1, 2):
        batch = micro_batch(train.batch_size, length, architecture.hidden_size)
        outcome = step([batch], number, batch.size)
        mx.eval(outcome, model.trainable_parameters(), step.optimizer.state)
    return mx.get_peak_memory() - before


def micro_batch(size: int, length: int, hidden: int) -> Any:
    """Random activations of which a quarter of the rows is supervised."""
    import mlx.core as mx

    from medtune.training.dataloader import MicroBatch, Size
    from medtune.training.loss import Rows

    count = size * length // 4
    rows: dict[str, mx.array] = dict.fromkeys(Rows._fields, mx.zeros(count, mx.int32))
    rows |= {"at": mx.arange(count), "token_weights": mx.ones(count), "compared": mx.zeros(count)}
    rows |= {name: mx.zeros(size) for name in ("preference_weight", "desirable", "reference")}
    rows |= {"partner": mx.arange(size)}
    positions = mx.broadcast_to(mx.arange(length, dtype=mx.int32), (3, size, length))
    inputs = (mx.random.normal((size, length, hidden)), positions, None)
    mx.eval(inputs, rows)
    tokens = size * length
    return MicroBatch(inputs=inputs, rows=Rows(**rows), ids=("a",) * size, size=Size(tokens, tokens, count, size))


@pytest.mark.parametrize(("moe", "group"), [(False, 4), (True, 2)])
def test_the_peak_of_the_trunk_pass_is_foreseen_within_15_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moe: bool, group: int
) -> None:
    import mlx.core as mx

    from medtune.training import examples as material
    from medtune.training import job

    monkeypatch.setattr(cli, "CACHE", tmp_path / "cache")
    folder = write_twin(tmp_path / "twin", moe=moe, layers=6, hidden=256)
    data = Dataset.open(write_dataset(tmp_path, folder))
    train = config.load(TrainConfig, settings_file(tmp_path / "train.yaml", folder), ["trunk_cache=on"])
    base = Base.find(str(folder))
    renderer = Renderer(base)
    found = material.gather(data, renderer, train)
    examples = found.examples(found.share([], ALONE))
    store = job.open_store(cli.CACHE, base, Architecture.of(base.load()), 4)
    plan = planner.plan(base.config, train, Load.of(data.manifest.results), CPU, Machine.here())
    foreseen = sum(trunk_phase(plan.model, plan.load, group=group).values())
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    job.fill_store(store, base, renderer, 4, group, examples)
    measured = mx.get_peak_memory() - before
    print(f"foreseen {foreseen / 1e6:.1f} MB, measured {measured / 1e6:.1f} MB: {foreseen / measured - 1:+.1%}")
    assert abs(foreseen / measured - 1) < 0.15


def test_the_planner_counts_with_the_trainers_own_sizes() -> None:
    from medtune.model import cpu, padding
    from medtune.planner import memory
    from medtune.training import activations, loss

    shared = {"ATTENTION_BLOCK": (cpu,), "HEAD_ROWS": (loss, memory), "TRUNK_TOKENS": (activations, memory)}
    for name, users in shared.items():
        assert all(getattr(user, name) is getattr(padding, name) for user in users)
    assert CPU.block == padding.ATTENTION_BLOCK
    assert Load(1, 1, 0, 1.0, longest=padding.BUCKET + 1).padded == 2 * padding.BUCKET


def test_the_cache_takes_the_bytes_the_store_would_write() -> None:
    from medtune.training.activations import RowFormat

    plan = planned("lora_2000")
    form = RowFormat(hidden=2048, dtype="uint16", mlx_dtype="bfloat16", levels=0)
    assert plan.cached
    assert plan.cache_bytes == form.bytes(plan.load.tokens, plan.load.image_tokens)


def test_the_original_run_fits_a_mac_of_16_gb_and_the_small_profiles_the_macs_they_are_for() -> None:
    assert planned("lora_2000", memory=16).fits
    assert planned("qwen3_vl_4b", memory=16).fits
    assert planned("qwen3_vl_2b", memory=8).fits
    assert not planned("lora_2000", memory=8).fits


def test_what_is_advised_makes_it_fit() -> None:
    plan = planned("lora_2000", memory=16, load=replace(Load.guess(), longest=3072))
    assert not plan.fits
    remedies = plan.remedies()
    assert remedies == ["grad_accumulation_steps=2"]
    assert planned("lora_2000", *remedies, memory=16, load=plan.load).fits


def test_more_of_anything_never_needs_less_memory() -> None:
    small = planned("qwen3_vl_4b", "grad_checkpoint=off")
    for larger in (
        planned("qwen3_vl_4b", "grad_checkpoint=off", "batch_size=4"),
        planned("qwen3_vl_4b", "grad_checkpoint=off", "lora.rank=128"),
        planned("qwen3_vl_4b", "grad_checkpoint=off", "lora.num_layers=32"),
        planned("qwen3_vl_4b", "grad_checkpoint=off", load=replace(Load.guess(), longest=4096)),
        planned("qwen3_vl_4b", "grad_checkpoint=off", "trunk_cache=off"),
    ):
        assert sum(larger.phases["training"].values()) > sum(small.phases["training"].values())


def test_a_plan_is_shown_with_its_figures_and_without_weights() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(screen.render(planned("lora_2000")))
    shown = capture.get()
    for figure in ("35,651,584 trainable parameters", "136.0 MiB", "31.1 B", "16 GB", "128 GB"):
        assert figure in shown


def test_a_line_of_metrics_that_a_kill_cut_short_does_not_stop_the_plan(tmp_path: Path) -> None:
    train = settings("demo")
    begin = {"kind": "event", "step": 0, "name": "start", "settings": settings_hash(train)}
    row = {"kind": "train", "step": 10, "it_per_sec": 2.0, "peak_memory_gb": 1.0}
    stalled = row | {"step": 20, "it_per_sec": 0.0}
    lines = [*map(json.dumps, (begin, row, stalled)), '{"kind": "train", "st']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert planner.measured(tmp_path / "metrics.jsonl", train) == Measured(0.5, 2**30)


def test_a_plan_does_not_take_the_measurements_of_a_run_with_other_settings(tmp_path: Path) -> None:
    begin = {"kind": "event", "step": 0, "name": "start", "settings": settings_hash(settings("demo"))}
    row = {"kind": "train", "step": 10, "it_per_sec": 2.0, "peak_memory_gb": 1.0}
    files.write_jsonl(tmp_path / "metrics.jsonl", map(json.dumps, (begin, row)))
    assert planner.measured(tmp_path / "metrics.jsonl", settings("demo")) is not None
    assert planner.measured(tmp_path / "metrics.jsonl", settings("lora_2000")) is None
