"""Other families than Qwen3-VL go through the same code: equal losses with and without the cache, or a refusal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from medtune import cli
from medtune.demo.random_model import DEMO_MODEL
from medtune.errors import UserError
from medtune.model import adapters
from medtune.model.architecture import Architecture
from medtune.model.base import Base
from medtune.model.generation import generate
from medtune.model.renderer import Chat
from medtune.receipt import Receipt
from medtune.records import Message
from tests.workshop import settings_file, write_dataset
from tools import train_final

TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
}
VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 64,
        "num_heads": 2,
        "patch_size": 16,
        "mlp_ratio": 2,
        "spatial_merge_size": 2,
    },
    "qwen2_5_vl": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": 64,
        "num_heads": 2,
        "patch_size": 16,
        "window_size": 64,
        "spatial_merge_size": 2,
        "fullatt_block_indexes": [1],
    },
}


def write_family(folder: Path, kind: str) -> Path:
    """A random model of another family with the demo's tokenizer and image processor."""
    folder.mkdir()
    for path in DEMO_MODEL.iterdir():
        if path.name not in ("config.json", "model.safetensors", "model.safetensors.index.json"):
            shutil.copyfile(path, folder / path.name)
    demo = json.loads((DEMO_MODEL / "config.json").read_text())
    text = TEXT | {"vocab_size": demo["text_config"]["vocab_size"], "tie_word_embeddings": False}
    mx.random.seed(0)
    if kind in VISION:
        ids = {key: demo[key] for key in demo if key.endswith("_token_id") and isinstance(demo[key], int)}
        text["rope_scaling"] = {"type": "mrope", "mrope_section": [2, 3, 3]}
        config = {**ids, **text, "model_type": kind, "vision_config": VISION[kind]}  # flat, as Qwen writes it
        config["vision_config"]["model_type"] = kind
        from mlx_vlm.utils import get_model_and_args, update_module_configs

        classes, _ = get_model_and_args(config)
        made = update_module_configs(classes.ModelConfig.from_dict(config), classes, config, ["text", "vision"])
        model = classes.Model(made)
    else:
        config = text | {"model_type": kind, "head_dim": 16}
        from mlx_lm.utils import _get_classes

        classes = _get_classes(config)
        model = classes[0](classes[1].from_dict(config))
        (folder / "preprocessor_config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    return folder


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3", "llama"])
def test_other_families_learn_the_same_with_and_without_the_cache(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cli, "CACHE", tmp_path / "trunk")
    model = write_family(tmp_path / "model", kind)
    dataset = write_dataset(tmp_path, model, images=kind in VISION)
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


def test_adapters_of_a_text_model_load_in_mlx_lm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import mlx_lm

    monkeypatch.setattr(cli, "CACHE", tmp_path / "trunk")
    model = write_family(tmp_path / "model", "qwen3")
    dataset = write_dataset(tmp_path, model, images=False)
    config = settings_file(tmp_path / "train.yaml", model)
    assert cli.call(train_final.main, [str(dataset), "--config", str(config), "--out", str(tmp_path / "run")]) == 0
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
    model, chat = base.load(), Chat(base)
    prompts = [
        chat.prompt([Message(role="user", content=text)]) for text in ("发烧", "我头痛怎么办？", "我头痛咋办啊？")
    ]
    together = {
        answer.index: answer for batch in generate(model, chat, prompts, max_tokens=8, batch_size=3) for answer in batch
    }
    theirs, _ = mlx_lm.load(str(base.path))
    for index, prompt in enumerate(prompts):
        said = [int(token) for token, _ in generate_step(mx.array(prompt.tokens), theirs, max_tokens=8)]
        assert together[index].text == chat.detokenize(said).strip()
    assert len({answer.text for answer in together.values()}) == 3, "else equality would say little"
