"""A run's progress as one local page: served to this machine only, with nothing loaded from elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any

from medtune.errors import UserError
from medtune.i18n import language, tr
from medtune.metrics import History, thin
from medtune.monitor.status import Observer, Status, latest
from medtune.records import DIMENSIONS

HOST = "127.0.0.1"
PORT = 8377
HTTP = 80  # the port that a browser leaves out
PAGE = Path(__file__).with_name("page.html")
MAX_POINTS = 800  # of a curve; more cannot be told apart on a page
CONNECTIONS = 16  # answered at a time
PATIENCE = 10  # seconds that a silent connection is kept
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def server(run: Path, port: int = PORT) -> ThreadingHTTPServer:
    """A server of the page of ``run`` on 127.0.0.1; port 0 takes a free one."""
    progress = LiveRun(run)
    progress.json()  # what cannot be read is said here, not to every request
    answers = {
        "/": ("text/html; charset=utf-8", page),
        "/progress.json": ("application/json; charset=utf-8", progress.json),
    }
    try:
        return _Server((HOST, port), type("Handler", (_Handler,), {"answers": answers}))
    except (OSError, OverflowError) as error:  # taken or forbidden; beyond 65535 or negative
        said = getattr(error, "strerror", None) or error
        raise UserError(
            tr("{host}:{port}: {error}; choose another port with --port, or --port 0", host=HOST, port=port, error=said)
        ) from None


class LiveRun:
    """The state of a run as the page asks for it; curves are drawn anew only when metrics.jsonl has changed."""

    def __init__(self, run: Path) -> None:
        self._observer, self._lock = Observer(run), Lock()
        self._drawn: tuple[History, dict[str, Any]] | None = None

    def json(self) -> str:
        """``snapshot`` of now."""
        with self._lock:
            now = self._observer.look()
            if self._drawn is None or self._drawn[0] is not now.history:
                self._drawn = now.history, history_facts(now.history)
            return json.dumps(moment(now) | self._drawn[1], ensure_ascii=False, allow_nan=False)


class _Server(ThreadingHTTPServer):
    """Answers so many at a time, and hangs up on who comes on top of them."""

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = BoundedSemaphore(CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a browser that went away, a file that did: no fault of ours
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    answers: Mapping[str, tuple[str, Callable[[], str]]]
    timeout = PATIENCE
    server_version, sys_version = "medtune", ""

    def do_GET(self) -> None:
        """Answer ``/`` with the page and ``/progress.json`` with the run's state."""
        found = self.answers.get(self.path.partition("?")[0])
        if not self._own():
            self.send_error(403)
        elif found is None:
            self.send_error(404)
        else:
            self._send(*found)

    do_HEAD = do_GET

    def _own(self) -> bool:
        """Only pages of this very server may ask.

        A foreign site that resolves to 127.0.0.1 names itself as host, a foreign page itself as origin.
        """
        port = self.connection.getsockname()[1]
        here = [name if port == HTTP else f"{name}:{port}" for name in (HOST, "localhost")]
        hosts, origins = (self.headers.get_all(name, []) for name in ("Host", "Origin"))
        return len(hosts) == 1 and hosts[0] in here and all(origin == f"http://{hosts[0]}" for origin in origins)

    def _send(self, kind: str, answer: Callable[[], str]) -> None:
        body = answer().encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a line per refresh would bury the address."""


def page() -> str:
    """The page in the person's language; the figures come from /progress.json."""
    html = PAGE.read_text(encoding="utf-8")
    texts = json.dumps(_texts(), ensure_ascii=False).replace("</", "<\\/")
    return html.replace("__LANG__", "zh-CN" if language() == "zh" else "en").replace("__TEXTS__", texts)


def snapshot(now: Status) -> dict[str, Any]:
    """Everything the page shows, as plain values."""
    return moment(now) | history_facts(now.history)


def moment(now: Status) -> dict[str, Any]:
    """What the clock changes."""
    names = ("run", "state", "note", "step", "total", "fraction", "elapsed", "eta", "silent")
    return {name: getattr(now, name) for name in names}


def history_facts(history: History) -> dict[str, Any]:
    """What only a new line changes: the newest figures, the curves, the last checkpoints and events."""
    curves = {"train": ("train", "loss"), "valid": ("valid", "loss")}
    curves |= {dim: ("valid", f"loss_by_dim.{dim}") for dim in DIMENSIONS}
    curves |= {key: ("train", key) for key in ("lr", "grad_norm", "tokens_per_sec")}
    return {
        **latest(history),
        "curves": {name: thin(history.curve(*of), MAX_POINTS) for name, of in curves.items()},
        "checkpoints": history.of("checkpoint")[-12:],
        "events": history.of("event")[-12:],
    }


def _texts() -> dict[str, str]:
    return {
        "waiting": tr("waiting"),
        "preparing": tr("preparing"),
        "running": tr("running"),
        "stalled": tr("stalled"),
        "stopped": tr("stopped"),
        "finished": tr("finished"),
        "gone": tr("the monitor has ended"),
        "step": tr("step"),
        "at_step": tr("step {step}"),
        "start": tr("start"),
        "resume": tr("resume"),
        "stop": tr("stop"),
        "finish": tr("finish"),
        "early_stop": tr("early stop"),
        "warning": tr("warning"),
        "elapsed": tr("elapsed"),
        "eta": tr("remaining"),
        "train": tr("train"),
        "valid": tr("validation"),
        "best": tr("best"),
        "loss": tr("loss"),
        "train_loss": tr("train loss"),
        "valid_loss": tr("validation loss"),
        "best_loss": tr("best validation loss"),
        "by_dimension": tr("validation loss by dimension"),
        "accuracy": tr("accuracy"),
        "warmth": tr("warmth"),
        "vision": tr("vision"),
        "lr": tr("learning rate"),
        "grad_norm": tr("gradient norm"),
        "tokens_per_sec": tr("tokens per second"),
        "speed": tr("speed"),
        "memory": tr("peak memory"),
        "padding": tr("padding"),
        "checkpoints": tr("checkpoints"),
        "events": tr("events"),
        "none": tr("none yet"),
        "checkpoint": tr("last checkpoint"),
    }
