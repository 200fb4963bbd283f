"""The deploy tool: adapters in, a proved folder out, or one line that says why not."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from medtune import cli, files
from medtune.demo.random_model import write_twin
from medtune.deployment import hf_export, proof
from medtune.deployment.client import Server, with_images
from medtune.deployment.proof import Verdict, canaries, l3_served, references, sentences, stack
from medtune.deployment.proof.behaviour import kl
from medtune.model import adapters
from medtune.model.base import Base
from medtune.model.tensors import Shard
from medtune.receipt import Receipt
from medtune.report import facts, markdown
from medtune.run import WEIGHTS
from tests.deployed import App, write_run
from tools import deploy_to_lmstudio, export_hf, inspect_model

SYSTEM = "你是一位医生。"
served = l3_served.check  # the level itself, which `unproved` replaces


def _deploy(run: Path, *more: str) -> int:
    return cli.call(deploy_to_lmstudio.main, [str(run), "--config", str(run / "deploy.yaml"), *more])


@pytest.fixture(autouse=True)
def _without_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether somebody made LM Studio's environment here does not change these tests."""
    monkeypatch.setattr(stack, "interpreter", lambda: None)


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the levels that need no process of their own look, for tests about something else."""
    for level, module in proof.levels():
        if level != "L0":
            monkeypatch.setattr(module, "check", lambda subject: Verdict("skipped"))
    monkeypatch.setattr(references, "record", lambda *args: references.References([], ""))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_twin(tmp_path_factory.mktemp("base") / "m", moe=False, layers=2)


@pytest.fixture
def run(tmp_path: Path, base: Path) -> Path:
    return write_run(tmp_path / "run", base, size=0.1)


def _folder(run: Path) -> Path:
    return run / "lmstudio" / "medtune" / "small-medical-v2"


def _logprobs(folder: Path, run: Path | None = None) -> Any:
    model: Any = Base.find(str(folder)).load()
    if run:
        adapters.load(model, run)
        model.eval()
    logits = model(mx.array([[5, 17, 300, 42, 9, 61, 7, 700]])).logits[0].astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def test_a_deploy_ends_with_a_proved_folder_and_its_receipt(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", base, size=0.1, system_prompt=SYSTEM)
    assert _deploy(run) == 0
    said, folder = capsys.readouterr().out, _folder(run)
    assert "LM Studio is not installed here" in said and "L1 own stack: passed" in said
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "README.md"} <= names
    assert not any("adapter" in name for name in names) and not any(path.is_symlink() for path in folder.iterdir())
    assert Shard.open(folder / "model.safetensors").is_mlx
    assert SYSTEM in (folder / "chat_template.jinja").read_text(encoding="utf-8")
    tuned, deployed, before = _logprobs(base, run), _logprobs(folder), _logprobs(base)
    assert kl(tuned, deployed) < 1e-6 and kl(before, deployed) > 1e-4
    results = Receipt.read(run / "deployment.json").results
    assert (results["staged"], results["folder"], results["previous"]) == (True, str(folder), None)
    assert {row["name"]: row["sha256"] for row in results["files"]} == {n: files.sha256(folder / n) for n in names}
    assert len(results["layers"]) == 8 and all(row["share"] > 0.99 for row in results["layers"])
    verdicts = {(row["level"], row["verdict"]) for row in results["proofs"]}
    assert verdicts == {("L0", "passed"), ("L1", "passed"), ("L1", "skipped"), ("L2", "skipped"), ("L3", "skipped")}
    assert [row["name"] for row in results["proofs"] if row["figures"] and not sentences.figures(row, "zh")] == []
    assert _deploy(run) == 0 and "already done" in capsys.readouterr().out


@pytest.mark.usefixtures("unproved")
def test_a_second_version_can_be_rolled_back_and_the_model_taken_out(run: Path, base: Path) -> None:
    assert _deploy(run) == 0
    first = files.sha256(_folder(run) / "model.safetensors")
    write_run(run, base, size=0.2)
    assert _deploy(run) == 0
    assert files.sha256(_folder(run) / "model.safetensors") != first
    assert Receipt.read(run / "deployment.json").results["previous"]
    assert _deploy(run, "--rollback") == 0
    assert files.sha256(_folder(run) / "model.safetensors") == first and not (run / "deployment.json").exists()
    assert _deploy(run, "--undeploy") == 0
    assert not any((run / "lmstudio").iterdir())


def test_a_model_may_be_called_as_the_original_was_and_the_app_finds_it_under_that_name(
    run: Path, unproved: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "Qwen3-VL-30B-Medical-V2-Accuracy"
    app = App(Path.home() / ".lmstudio", 9, f"medtune/{name}".lower())  # as the app may index it
    app.install()
    none = np.zeros((1, 2))
    item = references.Reference(canaries.Canary("c", ()), np.arange(3), [1], none, none, None, "收缩压", "您好")
    monkeypatch.setattr(references, "record", lambda *args: references.References([item], ""))
    monkeypatch.setattr(l3_served, "check", served)
    monkeypatch.setattr(Server, "described", lambda self: [{"key": name, "format": "mlx"}])
    monkeypatch.setattr(Server, "complete", lambda self, model, messages, max_tokens: "收缩压偏高")
    assert _deploy(run, "--set", f"name={name}") == 0
    said, home = capsys.readouterr().out, Path.home().resolve() / ".lmstudio"
    assert "L3 LM Studio itself: passed · 1 of 1 telling answers" in said and f"My Models, medtune/{name}, Chat" in said
    assert f"load {name.lower()} --exact" in app.log.read_text()
    folder = home / "models" / "medtune" / name
    assert f"\n# {name}\n" in (folder / "README.md").read_text(encoding="utf-8")
    assert files.read_json(home / "config-presets" / f"{name}.preset.json")["name"] == name
    results = Receipt.read(run / "deployment.json").results
    assert (results["name"], results["folder"], results["proofs"][-1]["verdict"]) == (name, str(folder), "passed")
    assert f"`medtune/{name}`" in markdown.render(facts.gather(run), "en", "", set())
    assert _deploy(run, "--set", f"name={name.lower()}") == 1
    assert f"is there as medtune/{name}" in capsys.readouterr().err
    assert _deploy(run, "--undeploy", "--set", f"name={name}") == 0 and not folder.exists()


@pytest.mark.usefixtures("unproved")
def test_where_lm_studio_is_installed_the_folder_goes_among_its_models(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path.home() / ".lmstudio"
    remembered = home / ".internal" / "user-concrete-model-default-config" / "medtune" / "small-medical-v2.json"
    remembered.parent.mkdir(parents=True)
    remembered.write_text("{}")
    assert _deploy(run) == 0
    assert (home / "models" / "medtune" / "small-medical-v2" / "config.json").exists()
    assert (home / "config-presets" / "small-medical-v2.preset.json").exists()
    assert "remembers settings for this name" in capsys.readouterr().out
    assert Receipt.read(run / "deployment.json").results["staged"] is False


@pytest.mark.usefixtures("unproved")
def test_a_change_that_rounding_loses_is_refused_and_the_old_version_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_twin(tmp_path / "base", moe=False, layers=2, bits=4)
    run = write_run(tmp_path / "run", base, size=0.008)
    assert _deploy(run) == 0
    before = {path.name: files.sha256(path) for path in _folder(run).iterdir()}
    assert _deploy(run, "--set", "precision=keep") == 1
    said = capsys.readouterr().err
    assert "refused at L0 (weights)" in said and "use precision: auto" in said and "0." in said
    assert {path.name: files.sha256(path) for path in _folder(run).iterdir()} == before


def test_an_answer_of_the_app_that_is_the_bases_brings_the_old_version_back(
    run: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unproved: None
) -> None:
    def levels(verdict: str) -> Any:
        def found(subject: Any, *, after_commit: bool = False) -> Any:
            assert subject.folder.exists()
            kind: Any = verdict if after_commit else "passed"
            faults = [{"fault": "not_mlx_vision"}] if kind == "failed" else []
            yield Verdict(kind, {"untouched": 1}, faults, "L3" if after_commit else "L0", "LM Studio itself")

        return found

    monkeypatch.setattr(proof, "run", levels("passed"))
    assert _deploy(run) == 0
    first = files.sha256(_folder(run) / "model.safetensors")
    write_run(run, base, size=0.2)
    monkeypatch.setattr(proof, "run", levels("failed"))
    assert _deploy(run) == 1
    said = capsys.readouterr().err
    assert "refused at L3 (LM Studio itself): LM Studio does not list it as an MLX model with vision" in said
    assert files.sha256(_folder(run) / "model.safetensors") == first
    assert not (run / "deployment.json").exists()


def test_a_dry_run_tells_everything_and_writes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    assert _deploy(run, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "8 adapted matrices, stored as 8 fp32" in said and str(_folder(run)) in said
    assert sorted(run.rglob("*")) == before


@pytest.mark.usefixtures("unproved")
def test_a_failed_gate_stops_the_deploy_unless_it_is_allowed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dimensions = {"accuracy": {"n": 9, "baseline": 0.5, "tuned": 0.4, "delta": -0.1, "ci_low": -0.2, "ci_high": 0.0}}
    results: dict[str, Any] = {
        "gate": {
            "passed": False,
            "failures": [
                "accuracy fell by 0.10",  # as evaluations said it before the gate stored facts
                {"kind": "dimension", "dim": "accuracy", "low": -0.2, "wanted": -0.02},
            ],
        },
        "dimensions": dimensions,
    }
    results["adapters"] = {"hash": files.sha256(run / WEIGHTS)}
    files.write_json(run / "evaluation.json", vars(Receipt("evaluation", {}, [], {}, results=results)))
    assert _deploy(run) == 1
    error = capsys.readouterr().err
    assert "accuracy fell by 0.10; accuracy: the difference may be as low as -0.200" in error
    assert not _folder(run).exists()
    assert _deploy(run, "--allow-failed-gate") == 0
    assert "| accuracy | 9 | 0.500 | 0.400 | -0.100 [-0.200, 0.000] |" in (_folder(run) / "README.md").read_text()


@pytest.mark.usefixtures("unproved")
def test_an_evaluation_of_other_adapters_neither_stops_nor_is_quoted(run: Path) -> None:
    results = {"gate": {"passed": False, "failures": ["x"]}, "dimensions": {}, "adapters": {"hash": "another"}}
    files.write_json(run / "evaluation.json", vars(Receipt("evaluation", {}, [], {}, results=results)))
    assert _deploy(run) == 0
    assert "Not measured" in (_folder(run) / "README.md").read_text()


@pytest.mark.usefixtures("unproved")
def test_installing_lm_studio_later_makes_the_deploy_worth_repeating(run: Path) -> None:
    assert _deploy(run) == 0
    (Path.home() / ".lmstudio").mkdir()
    assert _deploy(run) == 0
    assert (Path.home() / ".lmstudio" / "models" / "medtune" / "small-medical-v2" / "config.json").exists()


def test_another_chat_template_than_the_trained_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_twin(tmp_path / "base", moe=False, layers=2)
    run = write_run(tmp_path / "run", base)
    training = files.read_json(run / "training.json")
    training["results"]["template_hash"] = Base.find(str(base)).template_hash
    files.write_json(run / "training.json", training)
    assert _deploy(run, "--dry-run") == 0
    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert _deploy(run, "--dry-run") == 1
    assert "not the chat template of the training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("publisher=lmstudio-community", "is not yours"),
        ("publisher=LMStudio-Community", "LMStudio-Community is not yours"),
        ("publisher=../up", "publisher"),
        ("name=Mein Modell", "name"),
        ("precision=5bit", "precision"),
        ("system_prompt=etwas anderes", "not the one of the training"),
        ("home=/no/such/place", "correct `home`"),
        ("nmae=x", "did you mean name?"),
    ],
)
def test_a_wrong_setting_is_one_line(run: Path, capsys: pytest.CaptureFixture[str], setting: str, said: str) -> None:
    assert _deploy(run, "--set", setting) == 1
    assert said in capsys.readouterr().err and not _folder(run).exists()


def test_another_base_than_the_trained_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_twin(tmp_path / "base", moe=False, layers=2)
    run = write_run(tmp_path / "run", base)
    write_twin(base, moe=False, layers=2, seed=1)
    assert _deploy(run) == 1
    assert "not the weights of the training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [("preprocessor_config.json", "preprocessor_config.json missing"), ("model.safetensors", "weights")],
)
def test_an_incomplete_base_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    base = write_twin(tmp_path / "base", moe=False, layers=2)
    run = write_run(tmp_path / "run", base)
    (base / name).unlink()
    assert _deploy(run) == 1
    assert said in capsys.readouterr().err


def test_the_folder_of_somebody_can_be_inspected_and_a_bad_one_is_exit_code_1(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(inspect_model.main, [str(base)]) == 0
    said = capsys.readouterr().out
    assert "qwen3_vl · not quantised · with vision" in said and "nothing found that speaks against it" in said
    bad = shutil.copytree(base, tmp_path / "bad")
    (bad / "preprocessor_config.json").unlink()
    assert cli.call(inspect_model.main, [str(bad)]) == 1
    told = capsys.readouterr()
    assert "  ✗ preprocessor_config.json: missing" in told.out
    assert told.err.startswith("error: ✗ 1 problems; the first one decides: preprocessor_config.json: missing")
    assert cli.call(inspect_model.main, ["/no/such/folder"]) == 1


def test_the_flag_of_before_still_inspects_and_says_where_it_went(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(deploy_to_lmstudio.main, ["--inspect", str(base)]) == 0
    told, moved = capsys.readouterr(), f"tools/inspect_model.py {base}, or make inspect FOLDER={base}"
    assert "nothing found that speaks against it" in told.out
    assert told.err == f"--inspect is a tool of its own now: {moved}\n"


@pytest.mark.parametrize("moe", [False, True])
@pytest.mark.parametrize("bits", [None, 4])
def test_the_export_in_hugging_faces_layout_is_the_same_model(tmp_path: Path, moe: bool, bits: int | None) -> None:
    base = write_twin(tmp_path / "base", moe=moe, layers=2, bits=bits)
    hf_export.write(base, tmp_path / "hf")
    (shard,) = [Shard.open(path) for path in (tmp_path / "hf").glob("*.safetensors")]
    names = {tensor.name for tensor in shard.tensors}
    assert shard.metadata == {"format": "pt"} and {tensor.dtype for tensor in shard.tensors} == {"BF16"}
    assert all(name.startswith(("model.language_model.", "model.visual.", "lm_head.")) for name in names)
    assert ("model.language_model.layers.0.mlp.experts.gate_up_proj" in names) == moe
    assert kl(_logprobs(base), _logprobs(tmp_path / "hf")) < 1e-4  # bf16 rounds
    (patch,) = [tensor for tensor in shard.tensors if tensor.name.endswith("patch_embed.proj.weight")]
    assert patch.shape[1:] == (3, 2, 16, 16)


@pytest.mark.usefixtures("unproved")
def test_the_deployed_model_is_what_is_exported(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported = [str(run), "--config", str(run / "deploy.yaml"), "--out", str(tmp_path / "hf")]
    assert cli.call(export_hf.main, exported) == 1
    assert "run `make deploy " in capsys.readouterr().err
    assert _deploy(run) == 0 and cli.call(export_hf.main, exported) == 0
    assert "convert_hf_to_gguf.py" in capsys.readouterr().out
    assert kl(_logprobs(_folder(run)), _logprobs(tmp_path / "hf")) < 1e-4
    assert _deploy(run, "--export", "hf", str(tmp_path / "before")) == 0
    assert "--export hf is a tool of its own now: tools/export_hf.py" in capsys.readouterr().err
    assert _contents(tmp_path / "before") == _contents(tmp_path / "hf")


@pytest.mark.slow("deploys twenty times and kills each")
def test_killed_at_twenty_moments_there_is_always_exactly_one_complete_version(tmp_path: Path, root: Path) -> None:
    base = write_twin(tmp_path / "base", moe=False, layers=2)
    run, home = tmp_path / "run", tmp_path / "home"
    (home / ".lmstudio").mkdir(parents=True)
    at = home / ".lmstudio" / "models" / "medtune" / "small-medical-v2"
    command = [
        sys.executable,
        str(root / "tools/deploy_to_lmstudio.py"),
        str(run),
        "--config",
        str(run / "deploy.yaml"),
    ]
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "MEDTUNE_LANG": "en"}

    def deploy(seconds: float | None) -> None:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            said, _ = child.communicate(timeout=seconds)
            assert child.returncode == 0, said
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.communicate()

    write_run(run, base, size=0.1)
    started = time.monotonic()
    deploy(None)
    whole = time.monotonic() - started
    complete = {_contents(at)}
    draw = random.Random(0)
    for size in range(20):
        write_run(run, base, size=0.1 + 0.01 * (size + 1))
        deploy(draw.uniform(0.2, 1.1) * whole)
        visible = [
            path for path in (home / ".lmstudio" / "models").glob("*/*") if any(p.is_file() for p in path.iterdir())
        ]
        assert visible == [at]
        seen = _contents(at)
        if seen not in complete:  # then it is the new one, whole: it answers as base + adapter
            assert kl(_logprobs(base, run), _logprobs(at)) < 1e-6
            complete = {seen, *complete}
    write_run(run, base, size=0.05)
    deploy(None)
    assert _contents(at) not in complete
    work = home / ".lmstudio" / "models" / ".medtune" / "medtune" / "small-medical-v2"
    assert {path.name for path in work.iterdir()} == {"lock", "previous", "deployed.json", "preset.json"}


def _contents(folder: Path) -> str:
    return files.hash_of({path.name: files.sha256(path) for path in folder.iterdir()})


@pytest.mark.slow("starts mlx-vlm's server with the demo model")
def test_mlx_vlms_server_gives_the_tuned_answers_for_text_and_image(
    tmp_path: Path, demo_model: Path, root: Path
) -> None:
    run = write_run(tmp_path / "run", demo_model, size=0.2, num_layers=-1, rank=16)
    assert _deploy(run) == 0
    base = Base.find(str(demo_model))
    recorded = references.record(base, run, canaries.built_in(tmp_path / "canaries", ""), "")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlx_vlm.server",
        "--host",
        "127.0.0.1",
        "--model",
        str(_folder(run)),
        "--port",
        str(port),
    ]
    child = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        server = Server(f"http://127.0.0.1:{port}")
        _wait(port, child)
        figures = l3_served.ask(server, str(_folder(run)), recorded)
    finally:
        child.kill()
        child.wait()
    assert figures["telling"] >= 3 and l3_served.faults(figures) == []
    assert figures["like_tuned"] > 2 * figures["like_base"]
    item = next(item for item in recorded.items if item.canary.images)
    assert with_images(recorded.messages(item.canary), item.canary.images)[0]["content"][0]["type"] == "image_url"


def _wait(port: int, child: subprocess.Popen[bytes]) -> None:
    """Until the server listens."""
    for _ in range(600):
        assert child.poll() is None, "the server ended"
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail("the server does not listen")


def test_the_stack_is_made_again_when_its_versions_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(stack, "folder", lambda: tmp_path / "venv")
    assert stack.interpreter() is None
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / stack.STAMP).write_text("another hash")
    assert stack.interpreter() is None
    (tmp_path / "venv" / stack.STAMP).write_text(files.sha256(stack.REQUIREMENTS))
    assert stack.interpreter() == tmp_path / "venv" / "bin" / "python"


@pytest.mark.usefixtures("unproved")
def test_a_deployed_model_can_be_proved_again_and_the_receipt_says_what_was_found(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _deploy(run, "--prove") == 1
    assert "not deployed; run `make deploy RUN=" in capsys.readouterr().err
    assert _deploy(run) == 0
    before = {path.name: files.sha256(path) for path in _folder(run).iterdir()}
    found = Verdict("passed", {"telling": 5, "like_tuned": 5}, [], "L3", "LM Studio itself")
    monkeypatch.setattr(proof, "run", lambda subject, *, after_commit=False: iter([found] if after_commit else []))
    assert _deploy(run, "--prove") == 0
    assert "5 of 5 telling answers like base + adapter's" in capsys.readouterr().out
    assert [row["level"] for row in Receipt.read(run / "deployment.json").results["proofs"]] == ["L3"]
    assert {path.name: files.sha256(path) for path in _folder(run).iterdir()} == before


def test_adapters_that_were_cut_short_or_are_gone_are_one_line(
    run: Path, unproved: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "adapters.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert _deploy(run) == 1
    assert capsys.readouterr().err == f"error: {path}: damaged; bring it back or train again\n"
    path.unlink()
    assert _deploy(run) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: no such ") and error.count("\n") == 1


def test_a_models_folder_that_is_a_file_is_one_line(
    run: Path, unproved: None, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path.home() / ".lmstudio"
    home.mkdir()
    (home / "models").touch()
    assert _deploy(run) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {home.resolve() / 'models'}") and error.count("\n") == 1
