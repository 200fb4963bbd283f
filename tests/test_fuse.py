"""Fusing: what is adapted moves by what the adapter says, everything else keeps its bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from medtune.demo.random_model import write_twin
from medtune.deployment import deltas, folder, fuse, matrices
from medtune.deployment.proof.behaviour import kl
from medtune.errors import UserError
from medtune.model import adapters, tensors
from medtune.model.base import Base
from medtune.model.tensors import Weights
from medtune.run import WEIGHTS
from tests.deployed import ATTENTION, write_run

EXPERTS = ("gate_proj", "up_proj", "down_proj")
Fused = tuple[Path, list[fuse.Change]]


def sha256(tensor: tensors.Tensor) -> str:
    return hashlib.sha256(b"".join(tensor.chunks())).hexdigest()


def _fuse(base: Path, run: Path, out: Path, precision: Any = "auto") -> Fused:
    found, weights = Base.find(str(base)), Weights.open(base)
    changes = fuse.plan(weights, found.quantization, deltas.read(run), precision)
    out.mkdir()
    fuse.write(weights, changes, out)
    quantization = fuse.quantization_after(found.quantization, changes)
    folder.write(found, out, template=found.chat_template, quantization=quantization, card="card")
    return out, changes


def _logprobs(model: Any, pixels: mx.array | None = None) -> np.ndarray:
    tokens = mx.array([[5, 17, 300, 42, 9, 61, 7, 700]])
    logits = model(tokens).logits[0].astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool, int | None], Path]:
    made: dict[tuple[bool, int | None], Path] = {}

    def base(moe: bool, bits: int | None) -> Path:
        if (moe, bits) not in made:
            made[moe, bits] = write_twin(tmp_path_factory.mktemp("base") / "m", moe=moe, layers=2, bits=bits)
        return made[moe, bits]

    return base


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("moe", [False, True])
def test_the_fused_model_answers_as_base_and_adapter_and_unlike_the_base(
    bases: Callable[[bool, int | None], Path], tmp_path: Path, moe: bool, bits: int | None
) -> None:
    base = bases(moe, bits)
    run = write_run(tmp_path / "run", base, keys=ATTENTION + EXPERTS, size=0.1)
    out, changes = _fuse(base, run, tmp_path / "out")
    model = Base.find(str(base)).load()
    before = _logprobs(model)
    adapters.load(model, run)
    tuned, fused = _logprobs(model), _logprobs(Base.find(str(out)).load())
    assert len(changes) == 2 * 7
    assert kl(tuned, fused) < 1e-3
    assert kl(before, fused) > 20 * kl(tuned, fused)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize(
    ("moe", "lora"),
    [
        (False, {"keys": ATTENTION}),
        (True, {"keys": EXPERTS}),
        (False, {"keys": ("q_proj",), "vision": True, "merger": True}),
        (False, {"keys": ("q_proj",), "dora": True}),
    ],
)
def test_each_matrix_is_what_the_libraries_own_layer_fuses_to(
    bases: Callable[[bool, int | None], Path], tmp_path: Path, moe: bool, bits: int | None, lora: dict[str, Any]
) -> None:
    base = bases(moe, bits)
    run = write_run(tmp_path / "run", base, **lora)
    out, changes = _fuse(base, run, tmp_path / "out", "bf16" if bits else "keep")
    model = Base.find(str(base)).load()
    adapters.load(model, run)
    modules = dict(model.named_modules())
    stored = Weights.open(out).tensors
    for change in changes:
        module = change.matrix.module
        wanted = modules[module].fuse(dequantize=True).weight.astype(mx.float32)
        found = matrices.find(stored, None, module)
        for expert, first, last in found.blocks():
            block = wanted[expert, first:last] if wanted.ndim == 3 else wanted[first:last]
            rounding = 2**-8 if bits else 1e-6
            assert mx.allclose(found.read(expert, first, last), block, rtol=rounding, atol=1e-6), module


def test_an_adapted_embedding_moves_by_its_own_product(tmp_path: Path, dense_twin: Path) -> None:
    run, module = write_run(tmp_path / "run", dense_twin), "language_model.model.embed_tokens"
    weight = matrices.find(Weights.open(dense_twin).tensors, None, module)
    rows, columns = weight.shape
    a, b = mx.random.normal((rows, 4)), mx.random.normal((4, columns))
    adapters.save_tensors(run / WEIGHTS, {f"{module}.lora_a": a, f"{module}.lora_b": b})
    out, _ = _fuse(dense_twin, run, tmp_path / "out")
    moved = matrices.find(Weights.open(out).tensors, None, module).read(0, 0, rows) - weight.read(0, 0, rows)
    assert mx.allclose(moved, 2.0 * a @ b, atol=1e-4)


def test_every_other_tensor_keeps_its_bytes(bases: Callable[[bool, int | None], Path], tmp_path: Path) -> None:
    base = bases(True, 4)
    out, changes = _fuse(base, write_run(tmp_path / "run", base), tmp_path / "out")
    changed = {part.name for change in changes for part in change.matrix.parts}
    before, after = Weights.open(base).tensors, Weights.open(out).tensors
    untouched = set(before) - changed
    assert {name: sha256(before[name]) for name in untouched} == {name: sha256(after[name]) for name in untouched}
    assert len(untouched) > len(changed) > 0
    assert not any(
        sha256(before[name]) == sha256(after[name]) for name in changed & set(after) if name.endswith("weight")
    )


def _in_three(base: Path, out: Path) -> Path:
    """The same model in three shards, one of which has no adapted matrix; a matrix and its scales lie apart."""
    out.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (out / path.name).write_bytes(path.read_bytes())
    loaded: Any = mx.load(str(base / "model.safetensors"))
    groups: list[dict[str, mx.array]] = [{}, {}, {}]
    for name, value in loaded.items():
        place = 0 if name.startswith("vision_tower.") else 1 if name.endswith(".weight") else 2
        groups[place][name] = value
    for number, group in enumerate(groups, 1):
        mx.save_safetensors(str(out / f"model-{number:05d}-of-00003.safetensors"), group, {"format": "mlx"})
    return out


def test_shards_keep_their_cut_and_one_without_adapters_costs_no_disk(
    bases: Callable[[bool, int | None], Path], tmp_path: Path
) -> None:
    whole = bases(False, 4)
    base = _in_three(whole, tmp_path / "base")
    run = write_run(tmp_path / "run", base)
    out, _ = _fuse(base, run, tmp_path / "out", "bf16")
    single, _ = _fuse(whole, run, tmp_path / "single", "bf16")
    vision = "model-00001-of-00003.safetensors"
    assert os.path.samefile(out / vision, base / vision) and not (out / vision).is_symlink()
    split, one = Weights.open(out).tensors, Weights.open(single).tensors
    assert {name: sha256(t) for name, t in split.items()} == {name: sha256(t) for name, t in one.items()}


def test_a_base_without_the_mlx_header_gets_one(dense_twin: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in dense_twin.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    mx.save_safetensors(str(base / "model.safetensors"), mx.load(str(dense_twin / "model.safetensors")))  # type: ignore
    out, _ = _fuse(base, write_run(tmp_path / "run", base), tmp_path / "out")
    assert all(shard.is_mlx for shard in Weights.open(out).shards)


def test_auto_takes_the_smallest_form_that_keeps_the_change(
    bases: Callable[[bool, int | None], Path], tmp_path: Path
) -> None:
    base = bases(False, 4)
    forms = {}
    for name, size in (("large", 1.0), ("middle", 0.02), ("small", 0.008)):
        run = write_run(tmp_path / name, base, size=size)
        changes = fuse.plan(Weights.open(base), Base.find(str(base)).quantization, deltas.read(run), "auto")
        forms[name] = {change.form.label for change in changes}
        kept = [change.fidelity for change in changes if change.form.bits]
        assert all(fidelity.share >= 0.95 and fidelity.cosine >= 0.95 and fidelity.noise < 0.02 for fidelity in kept)
    assert forms == {"large": {"8bit"}, "middle": {"8bit"}, "small": {"bf16"}}


def test_four_bits_round_a_small_change_away(bases: Callable[[bool, int | None], Path], tmp_path: Path) -> None:
    base = bases(False, 4)
    run = write_run(tmp_path / "run", base, size=0.008)
    found = Base.find(str(base)).quantization
    changes = fuse.plan(Weights.open(base), found, deltas.read(run), "keep")
    assert max(change.fidelity.share for change in changes) < 0.7
    assert max(change.fidelity.cosine for change in changes) < 0.3
    assert all(0.001 < change.fidelity.relative < 0.01 for change in changes)


@pytest.mark.parametrize("precision", ["keep", "bf16", "8bit", "4bit"])
@pytest.mark.parametrize("bits", [None, 4])
def test_a_precision_asked_for_is_the_one_stored_and_the_model_loads(
    bases: Callable[[bool, int | None], Path], tmp_path: Path, bits: int | None, precision: str
) -> None:
    base = bases(False, bits)
    out, changes = _fuse(base, write_run(tmp_path / "run", base, vision=True), tmp_path / "out", precision)
    wanted = ("4bit" if bits else "fp32") if precision == "keep" else precision
    text = {change.form.label for change in changes if change.matrix.module.startswith("language_model.")}
    vision = {change.form.label for change in changes if change.matrix.module.startswith("vision_tower.")}
    assert text == {wanted}
    assert vision == {"bf16" if precision == "bf16" else "fp32"}  # the tower is never packed
    model = Base.find(str(out)).load()
    kinds = {
        type(module).__name__ for name, module in model.named_modules() if name.endswith("layers.1.self_attn.q_proj")
    }
    assert kinds == {"QuantizedLinear" if wanted.endswith("bit") else "Linear"}


def test_adapters_of_another_base_are_listed_and_refused(tmp_path: Path, dense_twin: Path) -> None:
    wide = write_twin(tmp_path / "wide", moe=False, layers=2, hidden=128)
    run = write_run(tmp_path / "run", wide)
    with pytest.raises(
        UserError, match=r"do not fit this base: 8 problems(.|\n)*\(128, 128\), the base has \(64, 64\)"
    ):
        fuse.plan(Weights.open(dense_twin), None, deltas.read(run), "auto")


def test_half_an_adapter_is_refused(tmp_path: Path, dense_twin: Path) -> None:
    run = write_run(tmp_path / "run", dense_twin, keys=("q_proj",), num_layers=1)
    stored: Any = mx.load(str(run / WEIGHTS))
    adapters.save_tensors(run / WEIGHTS, {k: v for k, v in stored.items() if k.endswith("lora_a")})
    with pytest.raises(UserError, match="found \\['lora_a'\\], expected \\['lora_a', 'lora_b'\\]"):
        deltas.read(run)


def test_an_adapter_that_does_nothing_counts_as_kept_and_changes_no_byte(tmp_path: Path, dense_twin: Path) -> None:
    run = write_run(tmp_path / "run", dense_twin, size=0.0)
    out, changes = _fuse(dense_twin, run, tmp_path / "out")
    assert {(c.fidelity.share, c.fidelity.relative) for c in changes} == {(1.0, 0.0)}
    before, after = Weights.open(dense_twin).tensors, Weights.open(out).tensors
    assert {n: sha256(t) for n, t in before.items()} == {n: sha256(t) for n, t in after.items()}


def test_the_memory_of_a_fuse_is_that_of_a_layer_not_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrices, "BLOCK", 2**13)
    base = write_twin(tmp_path / "base", moe=True, layers=12, hidden=128)
    run = write_run(tmp_path / "run", base, keys=ATTENTION + EXPERTS, num_layers=-1)
    prefix = "language_model.model.layers.0."
    layer = sum(t.nbytes for name, t in Weights.open(base).tensors.items() if name.startswith(prefix))
    mx.clear_cache()
    mx.reset_peak_memory()
    idle = mx.get_active_memory() + sum(value.nbytes for _, value in tree_flatten(mx.load(str(run / WEIGHTS))))
    _fuse(base, run, tmp_path / "out", "keep")
    assert mx.get_peak_memory() - idle < 2 * layer


def test_reading_by_blocks_gives_the_same_bytes(
    bases: Callable[[bool, int | None], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bases(True, 4)
    run = write_run(tmp_path / "run", base, keys=ATTENTION + EXPERTS)
    whole, _ = _fuse(base, run, tmp_path / "whole", "8bit")
    monkeypatch.setattr(matrices, "BLOCK", 64 * 7)
    blocks, _ = _fuse(base, run, tmp_path / "blocks", "8bit")
    assert (whole / "model.safetensors").read_bytes() == (blocks / "model.safetensors").read_bytes()


def test_the_config_says_how_each_changed_matrix_is_packed(
    bases: Callable[[bool, int | None], Path], tmp_path: Path
) -> None:
    base = bases(True, 4)
    run = write_run(tmp_path / "run", base, keys=("q_proj", "mlp.gate"), num_layers=1)
    out, _ = _fuse(base, run, tmp_path / "out", "8bit")
    quantization = tensors.files.read_json(out / "config.json")["quantization"]
    eight = {"group_size": 32, "bits": 8, "mode": "affine"}
    assert quantization["language_model.model.layers.1.self_attn.q_proj"] == eight
    assert (quantization["bits"], quantization["group_size"]) == (4, 32)
    assert tree_unflatten(list(tree_flatten(quantization)))  # plain JSON values
