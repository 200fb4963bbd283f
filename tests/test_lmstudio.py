"""Where LM Studio is, by its own rules, and its command and server, by what they say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medtune import files, lmstudio
from medtune.deployment import client, preset
from medtune.deployment.client import NotRunning, Server
from medtune.errors import UserError


def test_without_lm_studio_there_is_no_folder_and_none_is_made() -> None:
    assert lmstudio.home() is None and lmstudio.models_folder() is None
    assert not any(Path.home().iterdir())


def test_the_pointer_goes_before_the_old_cache_and_that_before_the_home(tmp_path: Path) -> None:
    plain, cache, pointed = Path.home() / ".lmstudio", Path.home() / ".cache" / "lm-studio", tmp_path / "moved"
    for folder in (plain, cache, pointed):
        folder.mkdir(parents=True)
    assert lmstudio.models_folder() == cache.resolve() / "models"
    (Path.home() / lmstudio.POINTER).write_text(f"{pointed}\n")
    assert lmstudio.models_folder() == pointed / "models"
    cache.rmdir()
    (Path.home() / lmstudio.POINTER).unlink()
    assert lmstudio.models_folder() == plain.resolve() / "models"


def test_the_folder_chosen_in_the_app_counts(tmp_path: Path) -> None:
    home = Path.home() / ".lmstudio"
    home.mkdir()
    (home / "settings.json").write_text(json.dumps({"downloadsFolder": str(tmp_path / "disk")}))
    assert lmstudio.models_folder() == tmp_path / "disk"
    (home / "settings.json").write_text("{")
    with pytest.raises(UserError, match=r"settings\.json: not JSON"):
        lmstudio.models_folder()


def test_a_home_in_the_config_must_exist(tmp_path: Path) -> None:
    assert lmstudio.models_folder(str(tmp_path)) == tmp_path.resolve() / "models"
    with pytest.raises(UserError, match=r"correct `home` in deploy\.yaml"):
        lmstudio.home(str(tmp_path / "none"))


def test_of_several_engines_the_newest_is_asked(tmp_path: Path) -> None:
    for name in (
        "app-mlx-generate-mac14-arm64@9",
        "app-mlx-generate-mac26-arm64@33",
        "app-mlx-generate-mac14-arm64@22",
    ):
        python = tmp_path / lmstudio.ENGINES / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
    found = lmstudio.engine_python(tmp_path)
    assert found is not None and found.parent.parent.name.endswith("@33")
    assert lmstudio.engine_python(tmp_path / "none") is None


def test_settings_remembered_for_a_name_are_found(tmp_path: Path) -> None:
    path = tmp_path / ".internal" / "user-concrete-model-default-config" / "medtune" / "small-v2.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert lmstudio.remembered_settings(tmp_path, "medtune", "small-v2") == path
    assert lmstudio.remembered_settings(tmp_path, "medtune", "small-v3") is None


def _program(home: Path, script: str) -> lmstudio.Lms:
    program = home / "bin" / "lms"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return lmstudio.Lms(home)


def test_what_lms_prints_is_read_and_its_failure_is_one_line(tmp_path: Path) -> None:
    lms = _program(
        tmp_path, '[ "$1" = ls ] && echo "[{\\"modelKey\\": \\"$2\\"}]" || { echo "no such model" >&2; exit 1; }'
    )
    assert lms.installed and lms.json("ls") == [{"modelKey": "--json"}]
    with pytest.raises(UserError, match="lms load x: no such model"):
        lms.run("load", "x")


Answer = Callable[[str, Any, dict[str, str]], tuple[int, Any]]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    """Start a server that answers by a function of (path, body, headers)."""
    running: list[HTTPServer] = []

    def start(answer: Answer) -> Server:
        class Handler(BaseHTTPRequestHandler):
            def _reply(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                code, said = answer(self.path, body, dict(self.headers))
                self.send_response(code)
                self.end_headers()
                self.wfile.write(json.dumps(said).encode())

            do_GET = do_POST = _reply

            def log_message(self, format: str, *args: Any) -> None:
                """Silence."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # seconds until it stops
        running.append(server)
        return Server(f"http://127.0.0.1:{server.server_port}", timeout=5)

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def test_a_question_is_greedy_and_its_images_travel_as_data(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    asked: list[Any] = []

    def answer(path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        asked.append((path, body))
        return 200, {"choices": [{"message": {"role": "assistant", "content": "红色"}}]}

    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "颜色?"}]}]
    said = serve(answer).complete("m", client.with_images(messages, [tmp_path / "red.png"]), 8)
    ((path, body),) = asked
    assert said == "红色" and path == "/v1/chat/completions"
    assert (body["temperature"], body["repeat_penalty"], body["max_tokens"], body["stream"]) == (0.0, 1.0, 8, False)
    image, text = body["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR") and text["text"] == "颜色?"


def test_a_token_is_sent_and_a_refused_one_is_explained(
    serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        known = headers.get("Authorization") == "Bearer right"
        return (200, {"models": []}) if known else (401, {"error": {"message": "invalid token"}})

    monkeypatch.setenv("LMSTUDIO_URL", serve(answer).url + "/")
    with pytest.raises(UserError, match="set LM_API_TOKEN"):
        Server.lmstudio().described()
    monkeypatch.setenv("LM_API_TOKEN", "right")
    assert Server.lmstudio().described() == []


def test_the_older_description_of_models_is_asked_where_the_newer_is_unknown(serve: Callable[[Answer], Server]) -> None:
    old = {"data": [{"id": "small-v2", "type": "vlm", "compatibility_type": "mlx"}]}

    def answer(path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        # LM Studio answers a path it does not know with 200 and an error
        return 200, old if path == "/api/v0/models" else {"error": f"Unexpected endpoint or method. (GET {path})"}

    assert serve(answer).described() == old["data"]


def test_no_server_is_not_a_fault_of_the_model() -> None:
    with pytest.raises(NotRunning, match="no answer"):
        Server("http://127.0.0.1:9", timeout=1).described()


def test_the_preset_switches_the_repeat_penalty_off_and_holds_the_prompt(tmp_path: Path) -> None:
    assert preset.write(tmp_path, "small-v2", "你是医生。", tmp_path / "work")
    path = preset.path(tmp_path, "small-v2")
    fields = {row["key"]: row["value"] for row in json.loads(path.read_text())["operation"]["fields"]}
    assert path == tmp_path / "config-presets" / "small-v2.preset.json"
    assert fields["llm.prediction.systemPrompt"] == "你是医生。"
    assert fields["llm.prediction.repeatPenalty"]["checked"] is False
    assert not any(row["key"].endswith("systemPrompt") for row in preset.preset("x", "")["operation"]["fields"])


def test_a_preset_of_the_persons_own_is_neither_overwritten_nor_removed(tmp_path: Path) -> None:
    work, path = tmp_path / "work", preset.path(tmp_path, "small-v2")
    files.write_text(path, "mine")
    assert not preset.write(tmp_path, "small-v2", "你是医生。", work)
    preset.remove(work)
    assert path.read_text() == "mine"
    path.unlink()
    assert preset.write(tmp_path, "small-v2", "你是医生。", work) and preset.write(tmp_path, "small-v2", "您好。", work)
    path.write_text(path.read_text().replace("0.3", "0.5"))
    assert not preset.write(tmp_path, "small-v2", "你是医生。", work), "changed in the app since"
    path.unlink()
    assert preset.write(tmp_path, "small-v2", "", work)
    preset.remove(work)
    assert not path.exists()


def test_an_empty_pointer_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / lmstudio.POINTER).write_text("\n")
    assert lmstudio.home() is None


@pytest.mark.parametrize(
    "content", [b"[]", b'{"downloadsFolder": 5}', '{"downloadsFolder": "盘"}'.encode("gb18030"), b"{"]
)
def test_settings_that_are_not_lm_studios_are_one_line_that_names_them(content: bytes) -> None:
    home = Path.home() / ".lmstudio"
    home.mkdir()
    (home / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match=r"settings\.json: .*LM Studio") as error:
        lmstudio.models_folder()
    assert "\n" not in str(error.value)


def test_a_pointer_in_another_encoding_is_one_line_that_names_it() -> None:
    (Path.home() / lmstudio.POINTER).write_bytes("/盘/lmstudio".encode("gb18030"))
    with pytest.raises(UserError, match=r"lmstudio-home-pointer: not UTF-8; remove it"):
        lmstudio.home()
