"""A chat server with OpenAI's API on this machine: LM Studio, mlx_vlm.server or mlx_lm.server."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import mimetypes
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medtune.errors import UserError
from medtune.i18n import tr

LONGEST = 2**26  # bytes of an answer that are read
LMSTUDIO = "http://127.0.0.1:1234"
LONGEST = 2**26  # bytes of an answer
HOST_NAME = re.compile(r"[0-9A-Za-z._-]+|[0-9A-Fa-f:.]+")  # or an address of IPv6
# Sent with every question: the apps' own defaults (temperature 0.8, repeat penalty 1.1) would change the answers.
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 1, "min_p": 0.0, "repeat_penalty": 1.0, "seed": 0}


@dataclass(frozen=True)
class Server:
    """One running server. LM Studio asks for a token where the person has set one: LM_API_TOKEN."""

    url: str = LMSTUDIO
    token: str = ""
    timeout: float = 600  # seconds; a cold 30B model takes minutes to its first token
    remote: bool = False  # whether it may be another machine

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _address(self.url, self.remote))
        if not (self.token.isascii() and self.token.isprintable()):
            raise UserError(tr("LM_API_TOKEN: holds what no token has; set it to one made in LM Studio's settings"))

    @classmethod
    def lmstudio(cls, port: int | None = None, *, remote: bool = False) -> Server:
        """LM Studio's own, at its usual address or where LMSTUDIO_URL says: this machine, unless ``remote``."""
        url = os.environ.get("LMSTUDIO_URL") or (f"http://127.0.0.1:{port}" if port else LMSTUDIO)
        return cls(url, os.environ.get("LM_API_TOKEN", ""), remote=remote)

    def described(self) -> list[dict[str, Any]]:
        """LM Studio's longer description: key or id, format, vision. [] from another server."""
        for path, field in (("/api/v1/models", "models"), ("/api/v0/models", "data")):
            try:
                said = self._call(path)
            except UnknownPath:
                continue
            found = said.get(field) if isinstance(said, dict) else None
            return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
        return []

    def complete(self, model: str, messages: Iterable[Mapping[str, Any]], max_tokens: int) -> str:
        """The greedy answer to OpenAI-style messages (see ``with_images``).

        An answer without content is an empty one: a thinking model that did not come to its answer says nothing.
        """
        path = "/v1/chat/completions"
        asked = {"model": model, "messages": list(messages), "max_tokens": max_tokens, "stream": False, **GREEDY}
        said = self._call(path, asked)
        try:
            content = said["choices"][0]["message"].get("content")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise _not_openai(self.url + path, said) from None
        if not isinstance(content, (str, type(None))):
            raise _not_openai(self.url + path, said)
        return content or ""

    def _call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self.token}"} if self.token else {}
        )
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with _opener().open(request, timeout=self.timeout) as answer:
                said = json.loads(answer.read(LONGEST))
        except urllib.error.HTTPError as error:
            raise _refusal(self.url + path, error) from None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:  # timeouts are OSErrors
            raise NotRunning(self.url + path, str(error)[:300]) from None
        if not isinstance(said, dict):
            raise _not_openai(self.url + path, said)
        if said.get("error"):  # LM Studio answers an unknown path with 200 and an error
            kind = UnknownPath if "endpoint" in str(said["error"]).lower() else UserError
            raise kind(tr("{url}: {error}", url=self.url + path, error=said["error"]))
        return said


class NotRunning(UserError):
    """No server answers at this address."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(tr("{url}: no answer ({error})", url=url, error=reason))
        self.url, self.reason = url, reason


class UnknownPath(UserError):
    """The server does not know this part of the API."""


def _address(url: str, remote: bool) -> str:
    """The server's address as it is connected to; a UserError for another machine where that was not asked for."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or parts.scheme not in ("http", "https") or not HOST_NAME.fullmatch(host) or parts.username:
        raise UserError(tr("LMSTUDIO_URL: not the address of a server; it looks like {example}", example=LMSTUDIO))
    if host == "localhost":
        host = "127.0.0.1"  # whatever a resolver makes of the name
    if not remote and not _is_here(host):
        raise UserError(
            tr(
                "LMSTUDIO_URL: {host} is another machine; unset it, or add --allow-remote-server to send that machine "
                "the proof's questions, with images and LM_API_TOKEN",
                host=host,
            )
        )
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{f':{port}' if port is not None else ''}{parts.path.rstrip('/')}"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _opener() -> urllib.request.OpenerDirector:
    """Connects to the address it is given and to no other: no proxy of the environment, no redirect, no file."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _not_openai(url: str, said: Any) -> UserError:
    shown = json.dumps(said, ensure_ascii=False)[:200]
    return UserError(tr("{url}: an answer of an unknown form ({said}); is it LM Studio's server?", url=url, said=shown))


def _refusal(url: str, error: urllib.error.HTTPError) -> UserError:
    if 300 <= error.code < 400:
        return UserError(
            tr("{url}: sends us to another address, where nothing is sent; start LM Studio's server", url=url)
        )
    text = error.read(300).decode(errors="replace")
    if error.code in (401, 403):
        return UserError(tr("{url}: wants a token; set LM_API_TOKEN to one made in LM Studio's settings", url=url))
    return (UnknownPath if error.code == 404 else UserError)(f"{url}: {error.code} {text}")


def with_images(messages: Iterable[Mapping[str, Any]], images: Iterable[Path]) -> list[dict[str, Any]]:
    """Chat-template messages as OpenAI's, each image place filled with the next image as a data URL."""
    waiting = iter(images)

    def part(item: Mapping[str, Any]) -> dict[str, Any]:
        return (
            dict(item)
            if item["type"] == "text"
            else {"type": "image_url", "image_url": {"url": data_url(next(waiting))}}
        )

    return [
        {
            **message,
            "content": message["content"]
            if isinstance(message["content"], str)
            else list(map(part, message["content"])),
        }
        for message in messages
    ]


def data_url(image: Path) -> str:
    """An image file as a data URL."""
    kind = mimetypes.guess_type(image.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"
