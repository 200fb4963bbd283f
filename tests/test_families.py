"""Every family goes through the same code, and is one row of the table and one example here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from medtune import cli, files
from medtune import config as config_file
from medtune.demo.random_model import DEMO_MODEL
from medtune.deployment import adapter_import, deltas, folder, fuse, hf_export, matrices
from medtune.deployment.proof import lint
from medtune.errors import UserError
from medtune.model import adapters, families
from medtune.model.architecture import Architecture
from medtune.model.base import Base
from medtune.model.generation import generate
from medtune.model.renderer import Renderer
from medtune.model.tensors import Weights
from medtune.planner.model import GPU, Model
from medtune.receipt import Receipt
from medtune.records import Message
from medtune.schemas import TrainConfig
from tests.deployed import write_run
from tests.workshop import instance, settings_file, sizes, write_dataset
from tools import train_final

ROOT = Path(__file__).parents[1]
TEXT = {
    "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 1024,
    "vocab_size": 100,
}  # fmt: skip
SPARSE = {
    "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 2, "mlp_only_layers": [],
    "moe_intermediate_size": 48, "norm_topk_prob": True,
}  # fmt: skip
ROPE = {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
INTERLEAVED = {"rope_scaling": {"type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}}
TOWER = {"depth": 2, "num_heads": 2, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2}
DEEP = {
    **TOWER, "hidden_size": 32, "intermediate_size": 40, "out_hidden_size": 64, "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}  # fmt: skip


def nested(kind: str, text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """A config.json whose language model stands in `text_config`, as Qwen3-VL's."""
    return {
        "model_type": kind, "text_config": {**text, "model_type": f"{kind}_text"},
        "vision_config": {**vision, "model_type": kind},
    }  # fmt: skip


EXAMPLES: dict[str, dict[str, Any]] = {  # a small config.json of every family
    "qwen3_vl": nested("qwen3_vl", {**TEXT, **INTERLEAVED, "head_dim": 16}, DEEP),
    "qwen3_vl_moe": nested("qwen3_vl_moe", {**TEXT, **INTERLEAVED, **SPARSE, "head_dim": 16}, DEEP),
    "qwen2_5_vl": {  # flat, as Qwen writes it
        **TEXT, **ROPE, "tie_word_embeddings": False,
        "vision_config": {**TOWER, "hidden_size": 32, "intermediate_size": 40, "out_hidden_size": 64,
                          "window_size": 64, "fullatt_block_indexes": [1]},
    },
    "qwen2_vl": {
        **TEXT, **ROPE, "tie_word_embeddings": True,
        "vision_config": {**TOWER, "embed_dim": 32, "mlp_ratio": 2, "hidden_size": 64},
    },
    "qwen3": {**TEXT, "head_dim": 32, "tie_word_embeddings": True},
    "qwen3_moe": {**TEXT, **SPARSE, "head_dim": 16, "tie_word_embeddings": False},
    "qwen2": {**TEXT, "tie_word_embeddings": False},
    "llama": {**TEXT, "attention_bias": True, "mlp_bias": True},
}  # fmt: skip
KINDS = list(families.FAMILIES)


def settings(*overrides: str) -> TrainConfig:
    return config_file.load(TrainConfig, ROOT / "configs" / "demo" / "train.yaml", overrides)


def example(kind: str) -> dict[str, Any]:
    """The small config.json of a family."""
    config = json.loads(json.dumps(EXAMPLES[kind])) | {"model_type": kind}
    if "vision_config" in config:
        config["vision_config"]["model_type"] = kind
    return config


def write_family(folder: Path, kind: str) -> Path:
    """A random model of a family with the demo's tokenizer and image processor."""
    folder.mkdir()
    for path in DEMO_MODEL.iterdir():
        if path.name not in ("config.json", "model.safetensors", "model.safetensors.index.json"):
            shutil.copyfile(path, folder / path.name)
    demo, config = files.read_json(DEMO_MODEL / "config.json"), example(kind)
    config.get("text_config", config)["vocab_size"] = demo["text_config"]["vocab_size"]
    if "vision_config" in config:
        config |= {key: demo[key] for key in demo if key.endswith("_token_id") and isinstance(demo[key], int)}
    else:
        (folder / "preprocessor_config.json").unlink()
    mx.random.seed(0)
    files.write_json(folder / "config.json", config)
    parameters = dict(tree_flatten(instance(config).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), parameters, {"format": "mlx"})
    return folder


def test_every_family_has_an_example_here():
    assert set(EXAMPLES) == set(families.FAMILIES)


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_is_counted_module_by_module(kind: str):
    config = example(kind)
    modules, theirs = Model(config, settings(), GPU).modules, instance(config)
    assert {module.name: module.size for module in modules} == sizes(theirs)
    stored = dict(tree_flatten(theirs.parameters()))
    assert all(module.shape == stored[f"{module.name}.weight"].shape for module in modules if module.linear)


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_that_does_not_say_whether_the_head_is_tied_is_read_as_its_library_reads_it(kind: str):
    config = example(kind)
    config.pop("tie_word_embeddings", None)
    try:
        theirs = instance(config)
    except TypeError as error:
        assert "tie_word_embeddings" in str(error), "only a library that demands to be told may refuse"
        return
    assert {module.name for module in Model(config, settings(), GPU).modules} == set(sizes(theirs))


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_attach_where_the_planner_counts_them_in_every_family(kind: str):
    asked = ["lora.keys=[q_proj, o_proj, down_proj]", "lora.num_layers=2"]
    if families.FAMILIES[kind].vision:
        asked += ["lora.vision=true", "lora.merger=true"]
    if "moe" in kind:
        asked[0] = "lora.keys=[q_proj, o_proj, down_proj, mlp.gate]"
    train, model = settings(*asked), instance(example(kind))
    attached = adapters.attach(model, train.lora)
    plan = Model(example(kind), train, GPU)
    assert sorted(attached.keys) == sorted(module.name for module in plan.targets)
    counted = dict.fromkeys(adapters.census(model), 0)
    for module in plan.targets:
        counted[module.part] += module.adapter(train.lora)
    assert adapters.census(model) == counted


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_goes_to_hugging_face_and_back(kind: str):
    family = families.FAMILIES[kind]
    for module in Model(example(kind), settings(), GPU).modules:
        assert family.mlx_name(family.hf_name(module.name)) == module.name
        assert family.mlx_name(module.name) == module.name, "a name of MLX's is left alone"
    with pytest.raises(UserError, match=r"eyes\.blocks: no such tensor in Hugging Face's layout"):
        family.hf_name("eyes.blocks")


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_peft_finds_its_place_in_every_family(kind: str, tmp_path: Path):
    base = Base.find(str(write_family(tmp_path / "model", kind)))
    wanted = Model(base.config, settings("lora.keys=[q_proj]", "lora.num_layers=-1"), GPU).targets
    lora: dict[str, mx.array] = {}
    for module in wanted:
        name = f"base_model.model.{base.family.hf_name(module.name)}"
        lora |= {f"{name}.lora_A.weight": mx.ones((2, 64)), f"{name}.lora_B.weight": mx.ones((module.shape[0], 2))}
    mx.save_safetensors(str(tmp_path / "adapter_model.safetensors"), lora, {"format": "pt"})
    files.write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 4})
    config = adapter_import.write(adapter_import.read(tmp_path, base.family), base, tmp_path / "run")
    assert sorted(config.keys) == sorted(module.name for module in wanted) and wanted


def test_a_row_is_all_that_planner_import_deployment_and_export_ask_of_a_new_family(
    dense_twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    row = replace(families.FAMILIES["qwen3_vl"], model_type="stranger")
    base = Path(shutil.copytree(dense_twin, tmp_path / "base"))
    known = files.read_json(base / "config.json")
    files.write_json(base / "config.json", known | {"model_type": "stranger"})
    found = Base.find(str(base))
    with pytest.raises(UserError, match="model type stranger: not supported"):
        folder.check(found)
    monkeypatch.setitem(families.FAMILIES, "stranger", row)
    found = Base.find(str(base))
    assert Model(found.config, settings(), GPU).modules == Model(known, settings(), GPU).modules
    folder.check(found)
    assert lint.problems(base) == []
    imported = adapter_import.read(write_run(tmp_path / "run", dense_twin), found.family)
    assert adapter_import.write(imported, found, tmp_path / "imported").keys
    changes = fuse.plan(Weights.open(base), found.quantization, deltas.read(tmp_path / "imported"), "keep")
    assert {change.matrix.module.split(".")[0] for change in changes} == {"language_model"}
    hf_export.write(base, tmp_path / "hf")
    assert Architecture.of(SimpleNamespace(config=SimpleNamespace(model_type="stranger"))).family is row  # type: ignore


def test_a_library_with_other_names_is_data_too(monkeypatch: pytest.MonkeyPatch):
    names = (("mind.model.", "model.mind."), ("eyes.", "model.sight."), ("mind.lm_head", "lm_head"))
    library = replace(families.MLX_VLM, language="mind", tower="eyes", names=names)
    row = replace(families.FAMILIES["qwen3_vl"], model_type="stranger", library=library)
    monkeypatch.setitem(families.FAMILIES, "stranger", row)
    modules = Model(example("qwen3_vl") | {"model_type": "stranger"}, settings(), GPU).modules
    assert {module.name.split(".")[0] for module in modules} == {"mind", "eyes"}
    assert {row.part(f"{m.name}.lora_a") for m in modules if m.name.startswith("eyes.")} == {"vision", "merger"}
    assert families.is_vision("eyes.blocks.0.norm1.weight") and families.is_vision("model.sight.blocks.0.norm1.weight")
    assert not families.is_vision("mind.model.norm.weight")
    quantization = {"bits": 4, "model.norm": {"bits": 8}}
    assert matrices.settings_of(quantization, "mind.model.norm") == {"bits": 8}
    assert matrices.settings_of(quantization, "mind.lm_head") == quantization


def test_the_planner_reads_a_quantisation_listed_without_the_language_models_path():
    config = example("qwen3_vl")
    module = next(m for m in Model(config, settings(), GPU).modules if m.name.endswith("0.mlp.down_proj"))
    four, eight = {"group_size": 32, "bits": 4}, {"group_size": 32, "bits": 8}
    wanted = module.nbytes(four | {module.name: eight}, 2)
    assert module.nbytes(four | {module.name.removeprefix("language_model."): eight}, 2) == wanted
    assert module.nbytes(four, 2) < wanted


def test_no_other_file_names_a_family_or_where_its_parts_stand():
    words = "|".join([*families.FAMILIES, "language_model", "vision_tower", "lm_head", r"model\.visual"])
    named = re.compile(rf"\b({words})\b(?!\.cpp)")
    instances = {"config.py", "card.py"}  # of the demo: its model is one of a family, and they say of which
    files_read = [*ROOT.glob("lib/medtune/**/*.py"), *ROOT.glob("tools/*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files_read
        if path != Path(families.__file__) and not (path.parent.name == "demo" and path.name in instances)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if named.search(line)
    ]
    assert found == [] and len(files_read) > 100


def test_the_families_are_known_without_mlx():
    code = "import sys; sys.modules['mlx'] = sys.modules['mlx.core'] = None; import medtune.model.families"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_learns_the_same_with_and_without_the_cache(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cli, "CACHE", tmp_path / "trunk")
    model = write_family(tmp_path / "model", kind)
    dataset = write_dataset(tmp_path, model, images="vision_config" in EXAMPLES[kind])
    config = settings_file(tmp_path / "train.yaml", model, select={"by": "last", "patience": None})
    weights = []
    for mode in ("on", "off"):
        run = tmp_path / mode
        arguments = [str(dataset), "--config", str(config), "--out", str(run), "--set", f"trunk_cache={mode}"]
        assert cli.call(train_final.main, arguments) == 0
        weights.append(mx.load(str(run / "adapters.safetensors")))
        results = Receipt.read(run / "training.json").results
        assert results["val_loss"]["last"] < results["val_loss"]["first"]
    for name in weights[0]:
        assert mx.allclose(weights[0][name], weights[1][name], rtol=1e-3, atol=5e-5), name


@pytest.mark.parametrize(("kind", "key"), [("qwen3", "q_proj"), ("qwen3_moe", "down_proj")])
def test_adapters_of_a_text_model_load_in_mlx_lm(kind: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import mlx_lm

    monkeypatch.setattr(cli, "CACHE", tmp_path / "trunk")
    model = write_family(tmp_path / "model", kind)
    dataset = write_dataset(tmp_path, model, images=False)
    config = settings_file(tmp_path / "train.yaml", model)
    arguments = [str(dataset), "--config", str(config), "--out", str(tmp_path / "run"), "--set", f"lora.keys=[{key}]"]
    assert cli.call(train_final.main, arguments) == 0
    ours = Base.find(str(model)).load()
    adapters.load(ours, tmp_path / "run")
    theirs, _ = mlx_lm.load(str(model), adapter_path=str(tmp_path / "run"))
    tokens = mx.array([[1, 2, 3, 4, 5]])
    assert mx.allclose(ours(tokens), theirs(tokens), atol=1e-5)


def test_an_unknown_family_is_refused_by_name_with_the_list():
    class Stranger:
        model_type = "mamba"

    with pytest.raises(UserError, match=r"model type mamba: not supported; choose one of qwen3_vl, .*llama"):
        Architecture.of(Stranger())  # type: ignore[arg-type]


def test_a_text_model_answers_many_as_it_answers_each_and_as_mlx_lm_does(tmp_path: Path):
    import mlx_lm
    from mlx_lm.generate import generate_step

    base = Base.find(str(write_family(tmp_path / "model", "qwen3")))
    model, renderer = base.load(), Renderer(base)
    prompts = [
        renderer.prompt([Message(role="user", content=text)]) for text in ("发烧", "我头痛怎么办？", "我头痛咋办啊？")
    ]
    together = {
        answer.index: answer
        for batch in generate(model, renderer, prompts, max_tokens=8, batch_size=3)
        for answer in batch
    }
    theirs, _ = mlx_lm.load(str(base.path))
    for index, prompt in enumerate(prompts):
        said = [int(token) for token, _ in generate_step(mx.array(prompt.tokens), theirs, max_tokens=8)]
        assert together[index].text == renderer.detokenize(said).strip()
    assert len({answer.text for answer in together.values()}) == 3, "else equality would say little"
