"""Every family, text-only ones too, however its base was saved: deployed, proved, exported, or refused at once."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from medtune import cli, files
from medtune.deployment import folder, proof
from medtune.deployment.proof import Verdict, l3_served, references, stack
from medtune.model import families
from medtune.model.base import Base
from medtune.receipt import Receipt
from tests.deployed import App, write_run
from tests.test_families import KINDS, write_family
from tests.workshop import settings_file, write_dataset
from tools import deploy_to_lmstudio, export_hf, inspect_model, make_report, prepare_data, train_final

TOKENS = mx.array([[5, 17, 300, 42, 9, 61, 7, 700]])
TEXT_ONLY = [kind for kind in KINDS if not families.FAMILIES[kind].vision]


@pytest.fixture(autouse=True)
def _own_stack_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stack, "interpreter", lambda: None)
    monkeypatch.setattr(cli, "CACHE", tmp_path / "trunk")


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only L0 looks."""
    for level, module in proof.levels():
        if level != "L0":
            monkeypatch.setattr(module, "check", lambda subject: Verdict("skipped"))
    monkeypatch.setattr(references, "record", lambda *args: references.References([], ""))


def _deploy(run: Path, *more: str) -> int:
    return cli.call(deploy_to_lmstudio.main, [str(run), "--config", str(run / "deploy.yaml"), *more])


def _folder(run: Path) -> Path:
    return run / "lmstudio" / "medtune" / "small-medical-v2"


def _verdicts(run: Path) -> dict[str, str]:
    return {row["name"]: row["verdict"] for row in Receipt.read(run / "deployment.json").results["proofs"]}


def _logits(path: Path) -> mx.array:
    model: Any = Base.find(str(path)).load()
    found = model(TOKENS)
    return found if isinstance(found, mx.array) else found.logits


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_is_deployed_inspected_proved_again_and_exported(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_family(tmp_path / "base", kind)
    run = write_run(tmp_path / "run", base, size=0.1, keys=("q_proj", "down_proj"))
    assert _deploy(run) == 0
    assert cli.call(inspect_model.main, [str(_folder(run))]) == 0
    assert _deploy(run, "--prove") == 0
    assert _verdicts(run)["own stack"] == "passed" and "failed" not in _verdicts(run).values()
    out = tmp_path / "hf"
    assert cli.call(export_hf.main, [str(run), "--config", str(run / "deploy.yaml"), "--out", str(out)]) == 0
    said, sees = capsys.readouterr().out, bool(families.FAMILIES[kind].vision)
    assert sees == ("--mmproj" in said) == ("drop an image in" in said) == ("with vision" in said)
    assert "llama.cpp must know the tokenizer" in said
    card = (_folder(run) / "README.md").read_text(encoding="utf-8")
    assert sees == ("mlx_vlm.server" in card) == ("image-text-to-text" in card)
    assert mx.allclose(_logits(out), _logits(_folder(run)), atol=0.05), "the same model, in bf16"
    assert not mx.allclose(_logits(base), _logits(_folder(run)), atol=0.05)


def test_experts_of_a_text_only_model_are_exported_each_by_itself(tmp_path: Path, unproved: None) -> None:
    run = write_run(tmp_path / "run", write_family(tmp_path / "base", "qwen3_moe"), keys=("q_proj",))
    assert _deploy(run) == 0
    assert (
        cli.call(export_hf.main, [str(run), "--config", str(run / "deploy.yaml"), "--out", str(tmp_path / "hf")]) == 0
    )
    names = set(files.read_json(tmp_path / "hf" / "model.safetensors.index.json")["weight_map"])
    parts = {f"model.layers.1.mlp.experts.{e}.{part}_proj.weight" for e in range(4) for part in ("gate", "up", "down")}
    assert parts <= names and not any("switch_mlp" in name for name in names)


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("vision", [None, False, True])
def test_the_app_need_not_list_a_text_only_model_with_vision(
    vision: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", write_family(tmp_path / "base", "llama"), size=0.1)
    subject = proof.Subject(run, Base.find(str(tmp_path / "base")), [], "", references.References([], ""), "medtune/x")
    entry = {"modelKey": "x", "type": "llm", "format": "safetensors", **({} if vision is None else {"vision": vision})}
    assert l3_served._not_mlx_vision([entry], subject.base.sees) == []
    assert l3_served._not_mlx_vision([entry | {"format": "gguf"}], subject.base.sees) != []
    assert App  # the app itself: tests/test_proof.py


def test_a_vision_model_without_its_eyes_is_still_a_fault(dense_twin: Path, tmp_path: Path) -> None:
    blind = Path(shutil.copytree(dense_twin, tmp_path / "blind"))
    config = files.read_json(blind / "config.json")
    del config["vision_config"]
    files.write_json(blind / "config.json", config)
    assert cli.call(inspect_model.main, [str(blind)]) == 1
    files.write_json(blind / "config.json", config | {"model_type": "gemma"})
    assert cli.call(inspect_model.main, [str(blind)]) == 1, "the eyes are among the weights"
    assert cli.call(deploy_to_lmstudio.main, ["--inspect", str(blind)]) == 1, "the flag it had before, too"


def _spoil_weights(run: Path) -> None:
    shutil.copyfile(run.parent / "base" / "model.safetensors", _folder(run) / "model.safetensors")


def _lose_a_file(run: Path) -> None:
    (_folder(run) / "tokenizer.json").unlink()


def _lose_all(run: Path) -> None:
    shutil.rmtree(_folder(run))


def _lose_base(run: Path) -> None:
    shutil.rmtree(run.parent / "base")


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("spoil", [_spoil_weights, _lose_a_file, _lose_all, _lose_base])
def test_a_failed_proof_leaves_no_verdict_of_before(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_family(tmp_path / "base", "qwen3"), size=0.1)
    assert _deploy(run) == 0
    assert _verdicts(run)["files"] == _verdicts(run)["weights"] == "passed"
    spoil(run)
    assert _deploy(run, "--prove") == 1
    found = _verdicts(run)
    assert "passed" not in found.values() or "failed" in found.values()
    assert found.get("weights") != "passed"
    assert cli.call(make_report.main, [str(run), "--out", str(tmp_path / "report"), "--lang", "en"]) == 0
    assert "L0 weights | ✅" not in (tmp_path / "report" / "REPORT.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("unproved")
def test_a_proof_that_is_stopped_leaves_what_it_had_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", write_family(tmp_path / "base", "qwen3"), size=0.1)
    assert _deploy(run) == 0

    def stopped(subject: Any, *, after_commit: bool = False) -> Any:
        yield Verdict("passed", {}, [], "L0", "files")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(proof, "run", stopped)
        assert _deploy(run, "--prove") == 130
    assert _verdicts(run) == {"files": "passed"}
    assert _deploy(run, "--prove") == 0 and _verdicts(run)["weights"] == "passed"


@pytest.mark.usefixtures("unproved")
def test_what_is_deployed_under_another_name_is_not_proved_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", write_family(tmp_path / "base", "qwen3"), size=0.1)
    assert _deploy(run) == 0
    before = (run / "deployment.json").read_bytes()
    assert _deploy(run, "--prove", "--set", "name=other") == 1
    assert "deployed as medtune/small-medical-v2" in capsys.readouterr().err
    assert (run / "deployment.json").read_bytes() == before


@pytest.mark.usefixtures("unproved")
def test_a_deploy_that_is_done_is_proved_in_the_pinned_versions_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []
    monkeypatch.setattr(stack, "make", lambda: made.append(1))
    run = write_run(tmp_path / "run", write_family(tmp_path / "base", "qwen3"), size=0.1)
    assert _deploy(run) == 0 and made == []
    assert _deploy(run, "--pinned") == 0 and made == [1]
    assert "L0 weights: passed" in capsys.readouterr().out


def _engine(path: Path) -> None:
    """What LM Studio's engine does to a folder when it loads it (mlx-engine 08f0c07, transformers_compatibility.py)."""
    kind, config = files.read_json(path / "config.json")["model_type"], path / "preprocessor_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    if kind == "qwen2_vl" and "size" in settings:
        settings.pop("size")
    elif kind == "qwen2_5_vl" and settings.get("image_processor_type") == "Qwen2_5_VLImageProcessor":
        settings["image_processor_type"] = "Qwen2VLImageProcessor"
    else:
        return
    config.write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_what_lm_studios_engine_rewrites_is_no_damage_and_a_new_deploy_needs_no_rewriting(
    kind: str, tmp_path: Path
) -> None:
    base = write_family(tmp_path / "base", kind)
    settings = files.read_json(base / "preprocessor_config.json")
    files.write_json(base / "preprocessor_config.json", settings | {"image_processor_type": "Qwen2_5_VLImageProcessor"})
    run = write_run(tmp_path / "run", base, size=0.1)
    assert _deploy(run) == 0
    deployed = _folder(run) / "preprocessor_config.json"
    before = deployed.read_bytes()
    _engine(_folder(run))
    assert deployed.read_bytes() == before, "else its sizes would be lost there"
    shutil.copyfile(base / "preprocessor_config.json", deployed)  # as deploys of before wrote it
    _engine(_folder(run))
    found = Base.find(str(base))
    assert folder.is_the_bases(found, _folder(run), "preprocessor_config.json")
    files.write_json(deployed, files.read_json(deployed) | {"patch_size": 15})
    assert not folder.is_the_bases(found, _folder(run), "preprocessor_config.json")
    deployed.write_text("[", encoding="utf-8")
    assert not folder.is_the_bases(found, _folder(run), "preprocessor_config.json")


def _as_transformers_5(base: Path) -> None:
    """All processors in one file."""
    parts = {"preprocessor_config.json": "image_processor", "video_preprocessor_config.json": "video_processor"}
    files.write_json(base / "processor_config.json", {key: files.read_json(base / name) for name, key in parts.items()})
    for name in parts:
        (base / name).unlink()


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl"])
def test_a_base_saved_by_transformers_5_sees_as_before_and_is_deployed_with_the_files_older_engines_want(
    kind: str, tmp_path: Path
) -> None:
    base = write_family(tmp_path / "base", kind)
    before = Base.find(str(base)).processor().image_processor.num_image_tokens(700, 1100)
    _as_transformers_5(base)
    assert Base.find(str(base)).processor().image_processor.num_image_tokens(700, 1100) == before
    write_dataset(tmp_path, base)
    run = write_run(tmp_path / "run", base, size=0.1)
    assert _deploy(run) == 0
    (_folder(run) / "processor_config.json").unlink()
    deployed = Base.find(str(_folder(run)))
    assert deployed.processor().image_processor.num_image_tokens(700, 1100) == before
    assert (deployed.path / "video_preprocessor_config.json").exists()


def _no_processor(base: Path) -> None:
    (base / "preprocessor_config.json").unlink()


def _empty_processor(base: Path) -> None:
    _no_processor(base)
    files.write_json(base / "processor_config.json", {"processor_class": "Qwen3VLProcessor"})


def _in_hugging_faces_layout(base: Path) -> None:
    family = Base.find(str(base)).family
    model = dict(tree_flatten(Base.find(str(base)).load().parameters()))
    renamed = {family.hf_name(name): value for name, value in model.items()}
    mx.save_safetensors(str(base / "model.safetensors"), renamed, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_processor, "preprocessor_config.json missing"),
        (_empty_processor, "preprocessor_config.json missing"),
        (_in_hugging_faces_layout, "-m mlx_vlm.convert --hf-path"),
    ],
)
def test_what_deployment_would_refuse_of_a_base_is_refused_when_data_are_prepared_and_before_a_training(
    spoil: Callable[[Path], None], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_family(tmp_path / "base", "qwen3_vl")
    data = write_dataset(tmp_path, base)
    spoil(base)
    raw = tmp_path / "raw"
    arguments = [str(raw / "records.jsonl"), "--config", str(raw / "data.yaml"), "--out", str(tmp_path / "again")]
    assert cli.call(prepare_data.main, arguments) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    config = settings_file(tmp_path / "train.yaml", base)
    assert cli.call(train_final.main, [str(data), "--config", str(config), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_data_can_be_prepared_where_the_weights_are_not(tmp_path: Path) -> None:
    base = write_family(tmp_path / "base", "qwen3_vl")
    (base / "model.safetensors").unlink()
    assert write_dataset(tmp_path, base).exists()


def test_the_pinned_versions_say_which_are_the_engines() -> None:
    sections = stack.REQUIREMENTS.read_text(encoding="utf-8").split("\n\n# ")[1:]
    heads = [section.partition("\n")[0] for section in sections]
    assert heads[0] == "the engine's own pins" and heads[1].startswith("releases for") and heads[2].startswith("ours")
    pins = [[line.split("==")[0] for line in section.splitlines()[1:] if line] for section in sections]
    assert {"mlx", "pillow", "transformers"} <= set(pins[0]) and "mlx-vlm" in pins[1] and "numpy" in pins[2]
    assert not any(set(a) & set(b) for a, b in itertools.combinations(pins, 2))
