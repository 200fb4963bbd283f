"""Where LM Studio is, by its own rules, and its command and server, by what they say."""

from __future__ import annotations

import json
import socket
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
Start = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Start]:
    """Start a server that answers by a function of (path, body, headers)."""
    running: list[HTTPServer] = []

    def start(answer: Answer, **headers: str) -> Server:
        class Handler(BaseHTTPRequestHandler):
            def _reply(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                code, said = answer(self.path, body, dict(self.headers))
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
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


def test_a_question_is_greedy_and_its_images_travel_as_data(serve: Start, tmp_path: Path) -> None:
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


def test_a_token_is_sent_and_a_refused_one_is_explained(serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        known = headers.get("Authorization") == "Bearer right"
        return (200, {"models": []}) if known else (401, {"error": {"message": "invalid token"}})

    monkeypatch.setenv("LMSTUDIO_URL", serve(answer).url + "/")
    with pytest.raises(UserError, match="set LM_API_TOKEN"):
        Server.lmstudio().described()
    monkeypatch.setenv("LM_API_TOKEN", "right")
    assert Server.lmstudio().described() == []


def test_the_older_description_of_models_is_asked_where_the_newer_is_unknown(serve: Start) -> None:
    old = {"data": [{"id": "small-v2", "type": "vlm", "compatibility_type": "mlx"}]}

    def answer(path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        # LM Studio answers a path it does not know with 200 and an error
        return 200, old if path == "/api/v0/models" else {"error": f"Unexpected endpoint or method. (GET {path})"}

    assert serve(answer).described() == old["data"]


def answers(path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
    return 200, {"choices": [{"message": {"content": "好"}}]}


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_of_the_environment_sees_nothing(name: str, serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    proxy = serve(lambda path, body, headers: (seen.append(path), (502, {}))[1])
    server = serve(answers)
    monkeypatch.setenv(name, proxy.url)
    monkeypatch.setenv("no_proxy", "")
    assert server.complete("m", [{"role": "user", "content": "患者的问题"}], 5) == "好" and seen == []


@pytest.mark.parametrize("code", [300, 301, 302, 303, 304, 307, 308])
def test_a_question_does_not_go_where_the_server_points(code: int, serve: Start) -> None:
    seen: list[str] = []
    elsewhere = serve(lambda path, body, headers: (seen.append(path), (200, {}))[1])
    server = serve(lambda path, body, headers: (code, {}), Location=f"{elsewhere.url}/v1/chat/completions")
    with pytest.raises(UserError, match="another address"):
        server.complete("m", [{"role": "user", "content": "患者的问题"}], 5)
    assert seen == []


REMOTE = [
    "http://192.168.1.7:1234",
    "http://mac-mini.local:1234",
    "https://example.com",
    "http://[2001:db8::1]:1234",
    "http://0.0.0.0:1234",
    "http://127.0.0.1.example.com:1234",
    "http://localhost.example.com",
    "http://2130706433:1234",
    "http://127.1:1234",
    "http://0x7f000001",
    "http://[::ffff:8.8.8.8]:80",
    "http://localhost.:1234",
]
NO_ADDRESS = [
    "127.0.0.1:1234",
    "localhost:1234",
    "file:///etc/passwd",
    "ftp://127.0.0.1/",
    "http://",
    "http://:1234",
    "http://127.0.0.1:port",
    "http://127.0.0.1:99999",
    "http://me:secret@127.0.0.1:1234",
    "http://127.0.0.1:1234@evil.example",
    "http://127.0.0.1\\@evil.example",
    "http://[::1",
    "http://evil.example/\r\nX: y HTTP/1.1",
    "data:,x",
    "http://127.0.0.1 evil.example",
    "服务器",
]


@pytest.mark.parametrize("url", REMOTE)
def test_another_machine_is_asked_only_on_request(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMSTUDIO_URL", url)
    with pytest.raises(UserError, match="--allow-remote-server"):
        Server.lmstudio(1234)
    assert Server.lmstudio(1234, remote=True).url == url


@pytest.mark.parametrize("url", NO_ADDRESS)
@pytest.mark.parametrize("remote", [False, True])
def test_what_is_no_address_is_one_line_without_its_secrets(
    url: str, remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMSTUDIO_URL", url)
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:1234|--allow-remote-server") as error:
        Server.lmstudio(remote=remote)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_this_machine_has_several_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, taken in {
        "http://localhost:1234/": "http://127.0.0.1:1234",
        "http://LOCALHOST:80": "http://127.0.0.1:80",
        "http://127.0.0.9:5/base/": "http://127.0.0.9:5/base",
        "https://[::1]:1234": "https://[::1]:1234",
    }.items():
        monkeypatch.setenv("LMSTUDIO_URL", given)
        assert Server.lmstudio(7).url == taken
    monkeypatch.delenv("LMSTUDIO_URL")
    assert Server.lmstudio(7).url == "http://127.0.0.1:7"


@pytest.mark.parametrize("token", ["a\nb", "a\r\nHost: evil.example", "令牌", "\x00"])
def test_a_token_that_is_none_is_one_line(token: str) -> None:
    with pytest.raises(UserError, match="LM_API_TOKEN"):
        Server(token=token)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/9.9 what\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe",
        b"HTTP/1.1 200 OK\r\n\r\n{",
        b"\x00" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200,
    ],
)
def test_a_server_that_talks_nonsense_is_no_answer(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            caller = listening.accept()[0]
            caller.recv(65536)
            caller.sendall(said)
            caller.close()

        threading.Thread(target=once, daemon=True).start()
        with pytest.raises(NotRunning, match="no answer"):
            Server(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=5).described()


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
