"""Adapters of other programs mean the same here as there."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from medtune import cli, files
from medtune.deployment.proof import lint
from medtune.model import adapters
from medtune.model.base import Base
from medtune.run import CONFIG, WEIGHTS
from tests.deployed import write_run
from tests.workshop import write_dataset
from tools import deploy_to_lmstudio, import_adapter, make_report, test_v2_model

NAME = "language_model.model.layers.3.self_attn.q_proj.lora_b"
PROMPT = mx.array([[5, 17, 300, 42, 9, 61, 7, 700]])


def _logits(base: Path, run: Path | None = None) -> mx.array:
    model: Any = Base.find(str(base)).load()
    if run:
        adapters.load(model, run)
        model.eval()
    return model(PROMPT).logits


def _import(source: Path, base: Path, out: Path, *more: str) -> int:
    return cli.call(import_adapter.main, [str(source), "--base", str(base), "--out", str(out), *more])


@pytest.fixture
def run(tmp_path: Path, dense_twin: Path) -> Path:
    return write_run(tmp_path / "run", dense_twin, size=0.1)


def _tensors(run: Path) -> dict[str, mx.array]:
    loaded: Any = mx.load(str(run / WEIGHTS))
    return loaded


def _as_peft(run: Path, out: Path, **config: Any) -> Path:
    """The same adapter as PEFT would have saved it."""
    out.mkdir()
    named = {}
    for name, value in _tensors(run).items():
        module, _, leaf = name.rpartition(".")
        theirs = module.replace("language_model.model.", "base_model.model.model.language_model.")
        named[f"{theirs}.lora_{leaf[-1].upper()}.weight"] = mx.contiguous(value.T)
    mx.save_safetensors(str(out / "adapter_model.safetensors"), named, {"format": "pt"})
    files.write_json(out / "adapter_config.json", {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config})
    return out


def test_a_peft_adapter_gives_the_same_logits(run: Path, dense_twin: Path, tmp_path: Path) -> None:
    assert _import(_as_peft(run, tmp_path / "peft"), dense_twin, tmp_path / "in") == 0
    assert mx.array_equal(_logits(dense_twin, tmp_path / "in"), _logits(dense_twin, run))
    assert not mx.allclose(_logits(dense_twin, run), _logits(dense_twin))
    results = files.read_json(tmp_path / "in" / "training.json")["results"]
    assert results["imported"]["layout"] == "peft" and results["lora"]["scale"] == 2.0


def test_rslora_divides_by_the_root_of_the_rank(run: Path, dense_twin: Path, tmp_path: Path) -> None:
    _import(_as_peft(run, tmp_path / "peft", use_rslora=True), dense_twin, tmp_path / "in")
    assert adapters.AdapterConfig.read(tmp_path / "in").scale == 8 / math.sqrt(4)


def test_an_mlx_lm_adapter_with_relative_keys_gives_the_same_logits(
    run: Path, dense_twin: Path, tmp_path: Path
) -> None:
    source = tmp_path / "mlx"
    source.mkdir()
    (source / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes())
    keys = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parameters = {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": keys}
    files.write_json(source / CONFIG, {"num_layers": 2, "lora_parameters": parameters})
    assert _import(source, dense_twin, tmp_path / "in") == 0
    assert mx.array_equal(_logits(dense_twin, tmp_path / "in"), _logits(dense_twin, run))


def test_an_old_mlx_vlm_adapter_gives_the_logits_mlx_vlm_gives(run: Path, dense_twin: Path, tmp_path: Path) -> None:
    from mlx_vlm.trainer.peft.utils import apply_lora_layers

    source = tmp_path / "old"
    source.mkdir()
    model: Any = Base.find(str(dense_twin)).load()
    mx.random.seed(1)
    old = {}
    for layer in range(4):
        for name in ("self_attn.q_proj", "mlp.up_proj"):
            module = f"language_model.model.layers.{layer}.{name}"
            out, into = dict(model.named_modules())[module].weight.shape
            old |= {f"{module}.A": mx.random.normal((into, 4)), f"{module}.B": mx.random.normal((4, out))}
    mx.save_safetensors(str(source / WEIGHTS), old)
    files.write_json(source / CONFIG, {"rank": 4, "alpha": 0.4, "dropout": 0.0})
    assert _import(source, dense_twin, tmp_path / "in") == 0
    wanted: Any = apply_lora_layers(Base.find(str(dense_twin)).load(), source)
    wanted.eval()
    assert mx.allclose(_logits(dense_twin, tmp_path / "in"), wanted(PROMPT).logits, atol=1e-4)


def test_a_scale_given_by_hand_counts(run: Path, dense_twin: Path, tmp_path: Path) -> None:
    _import(_as_peft(run, tmp_path / "peft"), dense_twin, tmp_path / "in", "--scale", "20")
    assert adapters.AdapterConfig.read(tmp_path / "in").scale == 20


def test_every_tensor_without_a_place_is_listed_and_no_run_is_made(
    run: Path, dense_twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _as_peft(run, tmp_path / "peft")
    loaded: Any = mx.load(str(source / "adapter_model.safetensors"))
    loaded["base_model.model.lm_head.weight"] = mx.zeros((2, 2))
    loaded["base_model.model.model.language_model.norm.weight"] = mx.zeros(2)
    mx.save_safetensors(str(source / "adapter_model.safetensors"), loaded)
    assert _import(source, dense_twin, tmp_path / "in") == 1
    said = capsys.readouterr().err
    assert "2 problems" in said and "lm_head.weight" in said and "norm.weight" in said
    assert not (tmp_path / "in" / "training.json").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "only LORA can be imported"),
        ({"peft_type": "LORA", "rank_pattern": {"q_proj": 8}}, "rank_pattern: not supported"),
        ({"fine_tune_type": "full"}, "only lora and dora are adapters"),
        ({"something": 1}, "of no known layout"),
    ],
)
def test_what_cannot_be_imported_is_said(
    run: Path, dense_twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: Any, said: str
) -> None:
    (run / CONFIG).write_text(json.dumps({"r": 4, "lora_alpha": 8} | config))
    assert _import(run, dense_twin, tmp_path / "in") == 1
    assert said in capsys.readouterr().err


CHANGED = {  # keys of PEFT's LoraConfig with a value that makes the adapter mean something else
    "init_lora_weights": [
        "pissa",
        "pissa_niter_16",
        "PiSSA",
        "olora",
        "OLoRA",
        "corda",
        "loftq",
        "lora_ga",
        "x",
        3,
        [],
    ],
    "layer_replication": [[[0, 4], [2, 5]]],
    "alora_invocation_tokens": [[1, 2]],
    "use_qalora": [True],
    "lora_bias": [True],
    "trainable_token_indices": [[1], {"embed_tokens": [1]}],
    "fan_in_fan_out": [True],
    "megatron_config": [{"a": 1}],
    "rank_pattern": [{"q_proj": 8}],
    "alpha_pattern": [{"q_proj": 8}],
    "modules_to_save": [["lm_head"]],
    "target_parameters": [["experts.down_proj"]],
    "bias": ["all", "lora_only"],
    "monteclora_config": [{"x": 1}],
    "arrow_config": [{"top_k": 3}],
    "kasa_config": [{"beta": 1}],
    "use_bdlora": [{"nblocks": 2}],
    "use_rslora": ["false", 2, []],
    "use_dora": ["no"],
    "of_next_year": [True, "on", [1], {"a": 1}, 5],
}
UNCHANGED = {  # and with one that does not
    "init_lora_weights": [True, False, None, "gaussian", "Gaussian", "eva", "orthogonal"],
    "bias": ["none"],
    "rank_pattern": [{}, None],
    "layer_replication": [None],
    "lora_bias": [False],
    "fan_in_fan_out": [False],
    "megatron_core": ["megatron.core"],
    "qalora_group_size": [16],
    "target_modules": [["q_proj"], "all-linear"],
    "exclude_modules": [["lm_head"]],
    "layers_to_transform": [[1, 2], 3],
    "eva_config": [{"rho": 1.0}],
    "loftq_config": [{}, {"loftq_bits": 4}],
    "task_type": ["CAUSAL_LM"],
    "lora_dropout": [0.1, 0, None, "x"],
    "of_next_year": [False, None, {}, [], ""],
}


def _each(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(key, value) for key, values in table.items() for value in values]


@pytest.mark.parametrize(("key", "value"), _each(CHANGED))
def test_a_peft_key_that_changes_the_meaning_is_refused_by_its_name(
    run: Path, dense_twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: Any
) -> None:
    assert _import(_as_peft(run, tmp_path / "peft", **{key: value}), dense_twin, tmp_path / "in") == 1
    said = capsys.readouterr().err
    assert f"{key}: " in said and said.count("\n") == 1
    assert not (tmp_path / "in" / "training.json").exists()


@pytest.mark.parametrize(("key", "value"), _each(UNCHANGED))
def test_a_peft_key_that_changes_nothing_is_let_be(
    run: Path, dense_twin: Path, tmp_path: Path, key: str, value: Any
) -> None:
    assert _import(_as_peft(run, tmp_path / "peft", **{key: value}), dense_twin, tmp_path / "in") == 0
    assert mx.array_equal(_tensors(tmp_path / "in")[NAME], _tensors(run)[NAME])


def _rank_of_one(tensors: dict[str, mx.array], name: str) -> None:
    other = name.replace("lora_A", "lora_B")
    tensors[name], tensors[other] = tensors[name][:2], tensors[other][:, :2]


def _rank_of_half(tensors: dict[str, mx.array], name: str) -> None:
    tensors[name] = tensors[name][:2]


def _vector(tensors: dict[str, mx.array], name: str) -> None:
    tensors[name] = tensors[name][0]


def _cube(tensors: dict[str, mx.array], name: str) -> None:
    tensors[name] = tensors[name][None]


def _twice(tensors: dict[str, mx.array], name: str) -> None:
    tensors[name.replace(".weight", ".default.weight")] = tensors[name]


def _none(tensors: dict[str, mx.array], name: str) -> None:
    tensors.clear()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_rank_of_one, "of rank 2, not 4"),
        (_rank_of_half, "its factors do not fit each other"),
        (_vector, "its factors do not fit each other"),
        (_cube, "its factors do not fit each other"),
        (_twice, "another tensor stands for the same matrix"),
        (_none, "hold no tensor"),
    ],
)
def test_tensors_that_are_not_what_the_config_says_are_one_line(
    run: Path, dense_twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, said: str
) -> None:
    source = _as_peft(run, tmp_path / "peft")
    path = str(source / "adapter_model.safetensors")
    loaded: Any = dict(mx.load(path))
    spoil(loaded, next(name for name in loaded if "lora_A" in name))
    mx.save_safetensors(path, {name: mx.contiguous(value) for name, value in loaded.items()})
    assert _import(source, dense_twin, tmp_path / "in") == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize("config", [[], "x", 3, {"lora_parameters": 3}, {"rank": 4, "alpha": "x"}, {"rank": "4"}])
def test_a_config_that_is_no_adapters_is_one_line(
    run: Path, dense_twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: Any
) -> None:
    (run / CONFIG).write_text(json.dumps(config))
    assert _import(run, dense_twin, tmp_path / "in") == 1
    error = capsys.readouterr().err
    assert str(run) in error and error.count("\n") == 1


def test_files_of_a_mac_on_a_foreign_disk_are_no_weights(run: Path, dense_twin: Path, tmp_path: Path) -> None:
    source = _as_peft(run, tmp_path / "peft")
    base = Path(shutil.copytree(dense_twin, tmp_path / "base"))
    for folder in (source, base):
        for path in list(folder.iterdir()):
            (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7" + b"\0" * 100)
    assert Base.find(str(base)).weights_hash == Base.find(str(dense_twin)).weights_hash
    assert _import(source, base, tmp_path / "in") == 0
    assert mx.array_equal(_logits(base, tmp_path / "in"), _logits(dense_twin, run))
    found = {problem["fault"] for problem in lint.problems(base)}
    assert found == {"apple_double"}


def test_an_adapter_of_another_size_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from medtune.demo.random_model import write_twin

    wide = write_twin(tmp_path / "wide", moe=False, layers=2, hidden=128)
    assert _import(run, wide, tmp_path / "in") == 1
    assert "do not fit this base: 8 problems" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "LORA", "r": None}, "states no r (found None)"),
        ({"lora_parameters": {"rank": 4}}, "states no scale (found None)"),
    ],
)
def test_a_multiplier_that_is_not_stated_is_asked_for(
    run: Path, dense_twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: Any, said: str
) -> None:
    _as_peft(run, tmp_path / "peft")
    source = tmp_path / "peft" if "peft_type" in config else run
    (source / CONFIG).write_text(json.dumps({"lora_alpha": 8} | config))
    assert _import(source, dense_twin, tmp_path / "in") == 1
    assert said in capsys.readouterr().err


def test_a_broken_file_of_weights_is_one_line(
    run: Path, dense_twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / WEIGHTS).write_bytes(b"cut short")
    assert _import(run, dense_twin, tmp_path / "in") == 1
    assert "not a safetensors file; copy or download it again" in capsys.readouterr().err


def test_an_imported_adapter_is_measured_deployed_and_reported(
    run: Path, dense_twin: Path, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "in"
    assert _import(_as_peft(run, tmp_path / "peft"), dense_twin, home) == 0
    data = write_dataset(tmp_path / "made", dense_twin)
    bench = tmp_path / "eval.yaml"
    gate = {"accuracy": -1.0, "warmth": -1.0, "vision": -1.0, "superior": 0, "pass_rate": {}}
    settings = {"bench": str(root / "data/bench"), "max_tokens": 4, "batch_size": 8, "max_items": 1, "seed": 0}
    bench.write_text(json.dumps(settings | {"gate": gate}), encoding="utf-8")
    assert cli.call(test_v2_model.main, [str(home), str(data), "--config", str(bench)]) == 0
    assert cli.call(deploy_to_lmstudio.main, [str(home), "--config", str(run / "deploy.yaml"), "--dry-run"]) == 0
    out = tmp_path / "report"
    assert cli.call(make_report.main, [str(home), "--out", str(out), "--lang", "en"]) == 0
    text = (out / "REPORT.md").read_text(encoding="utf-8")
    assert "Accuracy" in text and "not measured" in text
    assert "stale" not in text.lower(), "the files it came from are no files of the run"
