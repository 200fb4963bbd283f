"""A model folder is data: no code of it is ever run, by any tool, and what is damaged in it is one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from medtune import cli
from medtune.demo.random_model import write_twin
from medtune.deployment.proof import stack
from medtune.errors import UserError
from medtune.model import guard
from medtune.model.base import Base
from medtune.model.renderer import Renderer
from medtune.model.tensors import INDEX, Shard
from medtune.receipt import Receipt
from tests.deployed import write_run
from tests.workshop import settings_file, write_dataset
from tools import (
    ablate_objective,
    deploy_to_lmstudio,
    export_hf,
    import_adapter,
    inspect_model,
    prepare_data,
    test_v2_model,
    train_final,
)

GATE = {"accuracy": -1.0, "warmth": -1.0, "vision": -1.0, "superior": 0, "pass_rate": {}}
ASKED = {"bench": None, "max_tokens": 2, "batch_size": 1, "max_items": 1, "seed": 0, "gate": GATE}
Plant = Callable[[Path], object]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a data set, a run on it, the run deployed, and a config each; made while the base was sound."""
    folder = tmp_path_factory.mktemp("house")
    base = write_twin(folder / "base", moe=False, layers=2)
    write_dataset(folder, base, count=20)
    run = write_run(folder / "run", base, size=0.1)
    settings_file(folder / "train.yaml", base)
    (folder / "eval.yaml").write_text(yaml.safe_dump(ASKED), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack, "interpreter", lambda: None)
        assert cli.call(deploy_to_lmstudio.main, [str(run), "--config", str(run / "deploy.yaml")]) == 0
    return folder


@pytest.fixture
def place(house: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil; receipts name the copy."""
    copy = Path(shutil.copytree(house, tmp_path / "house"))
    for path in (*copy.glob("*.yaml"), *copy.glob("*/*.yaml")):
        path.write_text(path.read_text(encoding="utf-8").replace(str(house), str(copy)), encoding="utf-8")
    for path in (copy / "dataset/manifest.json", copy / "run/training.json", copy / "run/deployment.json"):
        said = json.dumps(vars(Receipt.read(path))).replace(str(house), str(copy))
        Receipt(**json.loads(said)).write(path)
    return copy


def deployed(place: Path) -> Path:
    return place / "run/lmstudio/medtune/small-medical-v2"


def settle(place: Path) -> None:
    """The run's receipt speaks of the base as it is now: only what is found in the folder keeps a tool from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "check", lambda *_: None)
        base = Base.find(str(place / "base"))
        receipt = Receipt.read(place / "run/training.json")
        receipt.results["base_model"]["hash"] = base.weights_hash
        receipt.results["template_hash"] = base.template_hash
    receipt.write(place / "run/training.json")


def tools(place: Path) -> dict[str, tuple[Callable[[list[str] | None], None], list[object]]]:
    """Every tool that reads a model folder, with its arguments."""
    run, data, train = place / "run", place / "dataset", ["--config", place / "train.yaml"]
    deploy, ask = ["--config", run / "deploy.yaml"], ["--config", place / "eval.yaml"]
    raw = place / "raw"
    return {
        "prepare": (
            prepare_data.main,
            [raw / "records.jsonl", "--config", raw / "data.yaml", "--out", place / "out"],
        ),
        "plan": (train_final.main, [data, *train, "--out", place / "new", "--plan"]),
        "train": (train_final.main, [data, *train, "--out", place / "new", "--cache", place / "cache"]),
        "evaluate": (test_v2_model.main, [run, data, *ask]),
        "chat": (test_v2_model.main, [run, *ask, "--prompt", "你好"]),
        "deploy": (deploy_to_lmstudio.main, [run, *deploy]),
        "dry run": (deploy_to_lmstudio.main, [run, *deploy, "--dry-run"]),
        "prove": (deploy_to_lmstudio.main, [run, *deploy, "--prove"]),
        "import": (import_adapter.main, [run, "--base", place / "base", "--out", place / "imported"]),
        "inspect": (inspect_model.main, [place / "base"]),
        "ablate": (
            ablate_objective.main,
            [data, *train, "--eval", place / "eval.yaml", "--out", place / "arms", "--cache", place / "cache"],
        ),
    }


def called(tool: tuple[Callable[[list[str] | None], None], list[object]]) -> int:
    return cli.call(tool[0], [str(argument) for argument in tool[1]])


def changed(name: str, **values: Any) -> Plant:
    """Set keys of a JSON file; None takes one out."""

    def plant(folder: Path) -> None:
        found = json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).exists() else {}
        for key, value in values.items():
            *path, last = key.split("__")
            part = found
            for step in path:
                part = part[step]
            part.pop(last, None) if value is None else part.update({last: value})
        (folder / name).write_text(json.dumps(found), encoding="utf-8")

    return plant


def canary(folder: Path, file: str = "evil.py") -> Path:
    """A program in the folder that leaves a trace when it is run."""
    trace = folder / "was-run"
    (folder / file).write_text(f"open({str(trace)!r}, 'w').close()\n", encoding="utf-8")
    return trace


def model_file(folder: Path) -> Path:
    changed("config.json", model_file="evil.txt")(folder)
    return canary(folder, "evil.txt")


def auto_map(folder: Path) -> Path:
    """mlx-vlm hands over to transformers where its own processor fails."""
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        changed(name, auto_map={"AutoProcessor": "evil.P", "AutoTokenizer": ["evil.T", None]})(folder)
    changed("preprocessor_config.json", image_mean="no")(folder)
    return canary(folder)


@pytest.mark.parametrize("plant", [model_file, auto_map])
def test_no_tool_runs_code_of_a_base(
    place: Path, plant: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = plant(place / "base")
    settle(place)
    monkeypatch.setattr(stack, "interpreter", lambda: None)
    for name, tool in tools(place).items():
        capsys.readouterr()
        assert called(tool) == 1, name
        shown, said = capsys.readouterr()
        named = shown + said if name == "inspect" else said
        assert said.startswith("error: ") and ("model_file" in named or "auto_map" in named), (name, said)
        assert not trace.exists(), name


@pytest.mark.parametrize("plant", [model_file, auto_map])
def test_no_proof_and_no_export_runs_code_of_a_deployed_folder(
    place: Path, plant: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settle(place)
    trace = plant(deployed(place))
    monkeypatch.setattr(stack, "interpreter", lambda: None)
    run, config = str(place / "run"), ["--config", str(place / "run/deploy.yaml")]
    assert cli.call(deploy_to_lmstudio.main, [run, *config, "--prove"]) == 1
    assert cli.call(export_hf.main, [run, *config, "--out", str(place / "exported")]) == 1
    assert cli.call(inspect_model.main, [str(deployed(place))]) == 1
    said = capsys.readouterr().err
    assert said.count("error: ") == 3 and not trace.exists() and not (place / "exported").exists()


@pytest.mark.parametrize("plant", [model_file, auto_map])
def test_the_probe_runs_no_code_whoever_starts_it(place: Path, plant: Callable[[Path], Path]) -> None:
    import subprocess
    import sys

    from medtune.deployment.proof import probe

    trace = plant(deployed(place))
    (place / "request.json").write_text("[]", encoding="utf-8")
    command = [sys.executable, probe.__file__, str(deployed(place)), str(place / "request.json"), str(place / "a.npz")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and "brings code" in done.stderr and not trace.exists()


class Run:
    """What a pickle runs when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch was-run",))


def written(name: str, data: bytes) -> Plant:
    def plant(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)

    return plant


def linked(name: str, target: str) -> Plant:
    def plant(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return plant


def piped(name: str) -> Plant:
    def plant(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return plant


def in_its_place(name: str) -> Plant:
    def plant(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return plant


REFUSED: dict[str, tuple[Plant, str]] = {
    "program": (written("modeling.py", b""), "modeling.py: a program"),
    "program below": (written("sub/x.PY", b""), "x.PY: a program"),
    "library": (written("x.so", b""), "x.so: a program"),
    "pickle": (written("pytorch_model.bin", pickle.dumps(Run())), "pytorch_model.bin: a pickle"),
    "deep key": (changed("config.json", text_config__auto_map={"A": "b.C"}), "auto_map names a program"),
    "link": (linked("LICENSE", "/etc/hosts"), "LICENSE: a link out of the folder, to /etc/hosts"),
    "link to itself": (linked("x.json", "x.json"), "x.json: a link out"),
    "device": (linked("tokenizer.json", "/dev/zero"), "tokenizer.json: a link out"),
    "pipe": (piped("merges.txt"), "merges.txt: a pipe"),
    "folder": (in_its_place("tokenizer.json"), "tokenizer.json: a pipe, a device or a folder"),
    "no object": (written("config.json", b"[]"), "config.json"),
    "no JSON": (written("generation_config.json", b"{"), "generation_config.json:1: not JSON"),
    "deep JSON": (written("tokenizer_config.json", b"[" * 100_000), "tokenizer_config.json: JSON that cannot be read"),
    "long number": (written("config.json", b'{"a": ' + b"9" * 5000 + b"}"), "config.json: JSON that cannot be read"),
    "a billion layers": (changed("config.json", text_config__num_hidden_layers=10**9), "num_hidden_layers: 1000000000"),
    "no layers": (changed("config.json", text_config__num_hidden_layers="x"), "num_hidden_layers: 'x'"),
    "no size": (changed("config.json", text_config__hidden_size=None), "hidden_size: missing key"),
    "no patch": (changed("config.json", vision_config__patch_size=0), "patch_size: 0"),
    "heads": (changed("config.json", text_config__num_key_value_heads=3), "num_attention_heads: not a multiple"),
    "bits": (changed("config.json", quantization={"bits": "four", "group_size": 64}), "quantization.bits"),
    "null": (written("preprocessor_config.json", b'{"rescale_factor": null}'), "rescale_factor"),
    "no eyes": (changed("config.json", vision_config=[]), "vision_config"),
    "enlarged": (changed("preprocessor_config.json", min_pixels=10**12), "min_pixels"),
    "no means": (changed("preprocessor_config.json", image_mean=[0.5]), "image_mean"),
    "index": (written(INDEX, b'{"weight_map": []}'), "weight_map"),
    "index outwards": (written(INDEX, b'{"weight_map": {"a": "../b.safetensors"}}'), "weight_map"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_model_is_refused_before_a_library_sees_it(fault: str, dense_twin: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(dense_twin, tmp_path / "base"))
    plant, said = REFUSED[fault]
    plant(base)
    with pytest.raises(UserError) as error:
        Base.find(str(base))
    assert said in str(error.value)
    assert cli.call(inspect_model.main, [str(base)]) == 1


def test_a_link_is_followed_within_the_folder_and_into_the_cache_of_its_own_model(
    dense_twin: Path, tmp_path: Path
) -> None:
    model = tmp_path / "hub/models--a--b"
    snapshot = model / "snapshots/1"
    (model / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(dense_twin.iterdir()):
        shutil.copyfile(path, model / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (snapshot / "same.txt").symlink_to("merges.txt")
    assert guard.problems(snapshot) == []
    (model.parent / "models--c--d/blobs").mkdir(parents=True)
    (model.parent / "models--c--d/blobs/x").touch()
    (snapshot / "other.txt").symlink_to("../../../models--c--d/blobs/x")
    assert [problem["fault"] for problem in guard.problems(snapshot)] == ["leads_out"]


def test_what_a_download_or_a_trainer_leaves_beside_is_let_be(dense_twin: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(dense_twin, tmp_path / "base"))
    for name in (".cache/x.py", ".git/hook.py", "original/consolidated.00.pth", "notes.json", "._config.json"):
        written(name, b"[]")(base)
    assert guard.problems(base) == []
    written("training_args.bin", b"")(base)
    assert guard.problems(base, beside=["training_args.bin"]) == [] != guard.problems(base)


DAMAGED: dict[str, Plant] = {
    "tokenizer cut": written("tokenizer.json", b'{"version": "1.0"'),
    "tokenizer of another type": written("tokenizer.json", b"[]"),
    "tokenizer without a model": changed("tokenizer.json", model={"type": "X"}),
    "special token of another type": changed("tokenizer_config.json", eos_token={"a": 1}),
    "patches of another size": changed("preprocessor_config.json", patch_size=7),
    "template of another type": changed("chat_template.json", chat_template=["a"]),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_what_a_library_cannot_read_is_one_line_that_names_the_folder(
    fault: str, dense_twin: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(dense_twin, tmp_path / "base"))
    DAMAGED[fault](base)
    with pytest.raises(UserError) as error:
        Renderer(Base.find(str(base)))
    assert str(error.value).startswith(str(base)) and "\n" not in str(error.value)
    assert "tokenizer.json" in str(error.value) or not fault.startswith(("tokenizer", "token "))


def test_weights_that_do_not_fit_their_config_are_one_line(dense_twin: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(dense_twin, tmp_path / "base"))
    changed("config.json", text_config__intermediate_size=32)(base)
    with pytest.raises(UserError, match=str(base)) as error:
        Base.find(str(base)).load()
    assert "\n" not in str(error.value)


def test_a_fault_of_our_own_keeps_its_traceback(dense_twin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_vlm import utils

    monkeypatch.setattr(utils, "load_processor", lambda path: None)  # no argument of ours fits
    with pytest.raises(TypeError):
        Base.find(str(dense_twin)).processor()


LOOPS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10 ** 12 }}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{% generation %}{% for i in range(9999) %}{% for j in range(9999) %}aa{% endfor %}{% endfor %}{% endgeneration %}",
)
FAILS = ("{{ 1 / 0 }}", "{{ messages[9].a.b }}", "{{ 'a' + 1 }}", "{{", "{% include 'x' %}", "{{ range(10 ** 9) }}")


@pytest.mark.parametrize("template", [*LOOPS, *FAILS])
def test_a_template_that_loops_eats_memory_or_fails_is_one_line_in_seconds(
    template: str, dense_twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDTUNE_TEMPLATE", raising=False)
    base = Path(shutil.copytree(dense_twin, tmp_path / "base"))
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    started = time.monotonic()
    with pytest.raises(UserError, match="its chat template") as error:
        from medtune.records import Message

        Renderer(Base.find(str(base))).prompt([Message(role="user", content="a")])
    assert "\n" not in str(error.value) and time.monotonic() - started < 20


def header(change: Callable[[dict[str, Any], str], None]) -> Plant:
    def plant(path: Path) -> None:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        found = json.loads(data[8 : 8 + length])
        change(found, next(name for name in found if name != "__metadata__"))
        text = json.dumps(found).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return plant


HEADERS: dict[str, Plant] = {
    "shape": header(lambda found, name: found[name].update(shape=[2**40, 2**40])),
    "negative": header(lambda found, name: found[name].update(shape=[-1, -1])),
    "text": header(lambda found, name: found[name].update(shape="ab")),
    "type": header(lambda found, name: found[name].update(dtype="F64")),
    "unknown type": header(lambda found, name: found[name].update(dtype="X")),
    "offsets": header(lambda found, name: found[name].update(data_offsets=[-8, 8])),
    "twice": header(lambda found, name: found.update(again=found[name])),
    "hole": header(lambda found, name: found.pop(name)),
    "metadata": header(lambda found, name: found.update(__metadata__={"a": 1})),
    "length": lambda path: path.write_bytes(struct.pack("<Q", 2**63) + b"{}"),
    "nothing": lambda path: path.write_bytes(b""),
    "deep": lambda path: path.write_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000),
}


@pytest.mark.parametrize("fault", HEADERS)
def test_a_header_must_describe_the_bytes_that_follow(fault: str, dense_twin: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(dense_twin / "model.safetensors", tmp_path / "a.safetensors"))
    assert Shard.open(path).tensors
    HEADERS[fault](path)
    with pytest.raises(UserError, match=r"a\.safetensors: "):
        Shard.open(path)
