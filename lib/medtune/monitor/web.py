"""A run's progress as one local page: served to this machine only, with nothing loaded from elsewhere."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from medtune.errors import UserError
from medtune.i18n import language, tr
from medtune.metrics import Curve
from medtune.monitor.status import Status, latest, observe
from medtune.records import DIMENSIONS

HOST = "127.0.0.1"
PORT = 8377
PAGE = Path(__file__).with_name("page.html")
MAX_POINTS = 800  # of a curve; more cannot be told apart on a page
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def server(run: Path, port: int = PORT) -> ThreadingHTTPServer:
    """A server of the page of ``run`` on 127.0.0.1; port 0 takes a free one."""

    class Handler(_Handler):
        folder = run

    observe(run, time.time())  # what cannot be read is said here, not to every request
    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:  # taken or forbidden; beyond 65535 or negative
        said = getattr(error, "strerror", None) or error
        raise UserError(
            tr("{host}:{port}: {error}; choose another port with --port, or --port 0", host=HOST, port=port, error=said)
        ) from None


class _Handler(BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        """Answer ``/`` with the page and ``/progress.json`` with the run's state."""
        if not self._local():
            self.send_error(403)
        elif self.path.partition("?")[0] == "/":
            self._send(page(), "text/html; charset=utf-8")
        elif self.path.partition("?")[0] == "/progress.json":
            now = observe(self.folder, time.time())
            self._send(json.dumps(snapshot(now), ensure_ascii=False), "application/json; charset=utf-8")
        else:
            self.send_error(404)

    def _local(self) -> bool:
        """Only pages of this very server may ask: a foreign site that resolves to 127.0.0.1 names itself as host."""
        return self.headers.get("Host", "").rsplit(":", 1)[0] in (HOST, "localhost")

    def _send(self, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
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
    history = now.history
    return {
        "run": now.run,
        "state": now.state,
        "note": now.note,
        "step": now.step,
        "total": now.total,
        "fraction": now.fraction,
        "elapsed": now.elapsed,
        "eta": now.eta,
        "silent": now.silent,
        **latest(history),
        "curves": {
            "train": thin(history.curve("train", "loss")),
            "valid": thin(history.curve("valid", "loss")),
            **{dim: thin(history.curve("valid", f"loss_by_dim.{dim}")) for dim in DIMENSIONS},
            **{key: thin(history.curve("train", key)) for key in ("lr", "grad_norm", "tokens_per_sec")},
        },
        "checkpoints": history.of("checkpoint")[-12:],
        "events": history.of("event")[-12:],
    }


def thin(curve: Curve, most: int = MAX_POINTS) -> Curve:
    """At most ``most`` points, evenly chosen, the first and the last among them."""
    if len(curve) <= most:
        return curve
    return [curve[round(i * (len(curve) - 1) / (most - 1))] for i in range(most)]


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
