"""No number that is none is taken, no name leads out of a folder, no server's word is taken for the tuned model's."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from medtune import cli, files
from medtune.bench.figures import Ratio
from medtune.dataset import Dataset
from medtune.demo.random_model import write_twin
from medtune.deployment import hf_export
from medtune.deployment.client import Server
from medtune.deployment.inspection import Inspection
from medtune.errors import UserError
from medtune.model import adapters
from medtune.model.base import Base
from medtune.model.tensors import INDEX
from medtune.records import Record
from medtune.run import CONFIG, WEIGHTS
from medtune.training import checkpoints, validation
from medtune.training.state import RunState
from medtune.training.validation import Losses
from tests.deployed import write_run
from tests.workshop import settings_file, write_dataset
from tools import deploy_to_lmstudio, import_adapter, train_final

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_twin(tmp_path_factory.mktemp("base") / "m", moe=False, layers=2)


def said(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one line of a refusal."""
    error = capsys.readouterr().err
    assert code == 1 and error.startswith("error: ") and error.count("\n") == 1, error
    return error


# --- What is no number ---


def _spoil(path: Path, value: float) -> None:
    stored: Any = mx.load(str(path))
    name = sorted(stored)[-1]
    stored[name][0, 0] = value
    mx.eval(stored)
    mx.save_safetensors(str(path), stored, {"format": "mlx"})


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_adapters_that_are_not_finite_are_not_deployed_and_not_imported(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    run = write_run(tmp_path / "run", base, size=0.1)
    _spoil(run / WEIGHTS, value)
    code = cli.call(deploy_to_lmstudio.main, [str(run), "--config", str(run / "deploy.yaml")])
    assert "numbers that are not finite" in said(capsys, code) and not (run / "lmstudio/medtune").exists()
    code = cli.call(import_adapter.main, [str(run), "--base", str(base), "--out", str(tmp_path / "in")])
    assert "numbers that are not finite" in said(capsys, code) and not (tmp_path / "in/training.json").exists()


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf"])
def test_a_multiplier_that_is_no_number_is_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: str
) -> None:
    run = write_run(tmp_path / "run", base, size=0.1)
    arguments = [str(run), "--base", str(base), "--out", str(tmp_path / "in")]
    assert "not a number above 0" in said(capsys, cli.call(import_adapter.main, [*arguments, f"--scale={scale}"]))
    config = files.read_json(run / CONFIG)
    config["lora_parameters"]["scale"] = float(scale)
    (run / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    said(capsys, cli.call(import_adapter.main, arguments))
    code = cli.call(deploy_to_lmstudio.main, [str(run), "--config", str(run / "deploy.yaml")])
    assert "lora_parameters: scale" in said(capsys, code)


def test_adapters_that_change_nothing_are_not_deployed(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", base, size=0.0)
    code = cli.call(deploy_to_lmstudio.main, [str(run), "--config", str(run / "deploy.yaml")])
    assert "the adapters change nothing" in said(capsys, code)


def test_neither_adapters_nor_state_are_saved_with_a_number_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 of 2 tensors hold numbers that are not finite \(first: b\)"):
        adapters.save_tensors(tmp_path / WEIGHTS, {"a": mx.zeros(2), "b": mx.array([1.0, NAN])})

    class Model:
        def trainable_parameters(self) -> dict[str, mx.array]:
            return {"a": mx.array([NAN])}

    optimizer: Any = SimpleNamespace(state={"step": mx.array(3, mx.uint64)})
    with pytest.raises(UserError, match="not finite"):
        checkpoints.save(tmp_path / "resume.safetensors", Model(), optimizer, RunState("f"))
    assert not list(tmp_path.iterdir())


def test_a_validation_that_is_no_number_is_never_the_best_and_ends_the_run(
    dense_twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = RunState("f")
    assert not state.validated(Losses(NAN, {}, 1), None, ()) and state.best is None and state.waited == 1
    assert state.validated(Losses(2.0, {}, 1), None, ()) and not state.validated(Losses(NAN, {}, 1), None, ())
    dataset = write_dataset(tmp_path / "made", dense_twin, images=False)
    config = settings_file(tmp_path / "train.yaml", dense_twin)
    monkeypatch.setattr(validation, "validate", lambda *args: (Losses(NAN, {}, 1), None))
    arguments = [str(dataset), "--config", str(config), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "c")]
    assert "the validation loss is not finite" in said(capsys, cli.call(train_final.main, arguments))
    assert not (tmp_path / "run" / WEIGHTS).exists()


@pytest.mark.parametrize("at_most", [False, True])
def test_a_ratio_that_is_no_number_reaches_no_bar(at_most: bool) -> None:
    assert not Ratio("x", NAN, 1.0, at_most).reached and Ratio("x", 1.0, 1.0, at_most).reached


# --- What leads out of a folder ---


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", "a\\b", "a\0b", 7, None, ["x"]]
)
def test_an_index_that_names_what_is_not_in_its_folder_is_one_line(base: Path, tmp_path: Path, name: object) -> None:
    folder = tmp_path / "p" / "m"
    shutil.copytree(base, folder)
    files.write_json(folder / INDEX, {"weight_map": {"a": name}})
    wrong = "must be text" if not isinstance(name, str) else "is not the name of a weight file of this folder"
    with pytest.raises(UserError, match=f"{INDEX}: weight_map.*{wrong}"):
        Base.find(str(folder))
    assert wrong in "\n".join(Inspection.of(folder).lines)


@pytest.mark.parametrize("index", [[], "x", 3, {"weight_map": []}, {"weight_map": "a"}])
def test_an_index_of_another_type_is_one_line(base: Path, tmp_path: Path, index: object) -> None:
    folder = tmp_path / "p" / "m"
    shutil.copytree(base, folder)
    files.write_json(folder / INDEX, index)
    with pytest.raises(UserError, match=f"{INDEX}.*download the model again"):
        Base.find(str(folder))
    assert INDEX in "\n".join(Inspection.of(folder).lines)


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json", "config.json", "model.safetensors", "notes"])
def test_a_link_out_of_a_model_folder_is_refused(base: Path, tmp_path: Path, name: str) -> None:
    folder, private = tmp_path / "m", tmp_path / "private"
    shutil.copytree(base, folder)
    private.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"diary")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(os.path.relpath(private, folder))
    with pytest.raises(UserError, match=rf"{name}: a link out of the folder"):
        Base.find(str(folder))
    with pytest.raises(UserError, match="a link out of the folder"):
        hf_export.write(folder, tmp_path / "out")


def test_a_model_in_hugging_faces_cache_is_all_links_and_is_used(base: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(base.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (snapshot / "copy.json").symlink_to("config.json")
    assert Base.find(str(snapshot)).weights_hash == Base.find(str(base)).weights_hash
    (tmp_path / "m").symlink_to(base)  # the folder itself is the person's to link
    assert Base.find(str(tmp_path / "m")).weights_hash == Base.find(str(base)).weights_hash


@pytest.mark.parametrize("name", ["../secret.png", "/tmp/secret.png", "images/../../secret.png", "images/sub/x.png"])
def test_a_record_whose_image_lies_outside_the_data_set_is_refused(dense_twin: Path, tmp_path: Path, name: str) -> None:
    dataset = Dataset.open(write_dataset(tmp_path / "made", dense_twin))
    image = next((dataset.root / "images").glob("*.png"))
    places = (dataset.root.parent / "secret.png", dataset.root / "images/sub/x.png", Path("/tmp/secret.png"))
    for place in places[:2]:
        place.parent.mkdir(exist_ok=True)
        shutil.copy(image, place)
    rows = [row for _, row in files.read_jsonl(dataset.root / "test.jsonl")]
    row = next(row for row in rows if row.get("images")) | {"images": [name]}
    row["messages"][0]["content"] = "<image>x"
    files.write_jsonl(dataset.root / "test.jsonl", [Record.model_validate(row).to_json()])
    with pytest.raises(UserError, match="1 images are missing, broken or changed"):
        dataset.split("test")


# --- What a server says ---


@dataclass
class Says:
    """A server that answers every question alike."""

    body: bytes = b"{}"
    server: HTTPServer | None = field(default=None)

    def start(self) -> str:
        says = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None: ...

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(says.body)

            do_GET = do_POST

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def says() -> Iterator[Says]:
    found = Says()
    yield found
    if found.server:
        found.server.shutdown()


def _message(**message: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", **message}}]}).encode()


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (_message(content="您好"), "您好"),
        (_message(content=None, reasoning_content="先想一想"), ""),
        (_message(reasoning_content="先想一想"), ""),
        (_message(content=""), ""),
    ],
)
def test_an_answer_without_content_is_an_empty_answer(says: Says, body: bytes, answer: str) -> None:
    says.body = body
    assert Server(says.start()).complete("m", [{"role": "user", "content": "x"}], 4) == answer


@pytest.mark.parametrize(
    "body",
    [
        b"{}", b"[]", b"3", b"null", b'"x"', b"", b"<html>", b"\xff\xfe", b"[" * 100_000, b'{"choices": []}',
        b'{"choices": {}}', b'{"choices": [null]}', b'{"choices": [{}]}', b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": "x"}]}', b'{"choices": "x"}', b'{"choices": [[]]}', b'{"error": "x"}',
        b'{"error": {"message": "x"}}', _message(content=3), _message(content=["x"]), _message(content={"a": 1}),
    ],
)  # fmt: skip
def test_an_answer_of_another_form_is_one_line(says: Says, body: bytes) -> None:
    says.body = body
    server = Server(says.start())
    with pytest.raises(UserError) as found:
        server.complete("m", [{"role": "user", "content": "x"}], 4)
    assert "\n" not in str(found.value) and server.url in str(found.value)
    try:
        assert server.described() == []
    except UserError as error:
        assert "\n" not in str(error)
