"""Every tool once, on a few steps: what `make privacy-check` and its test watch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[3] / "tools"
SHORT = {
    "train": ("iters=4", "steps_per_eval=4", "steps_per_report=2", "save_every=4", "lr_schedule.warmup=1"),
    "eval": ("max_items=1", "max_tokens=4"),
}
BENCH = "--rows 16 --layers 4 --hidden 128 --epochs 1 --repeats 1"
# A question to LM Studio's server with the environment's proxies, as the proof asks it; and the monitor's page.
ASK = """
import sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from medtune.deployment.client import Server
from medtune.monitor import web

class App(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"choices": [{"message": {"content": "ok"}}]}')

app = HTTPServer(("127.0.0.1", 0), App)
threading.Thread(target=app.serve_forever, daemon=True).start()
print(Server.lmstudio(app.server_port).complete("m", [{"role": "user", "content": "?"}], 4))
web.server(Path(sys.argv[1]), 0).server_close()
"""


@dataclass(frozen=True)
class Chain:
    """The chain on a base model with the settings in ``configs``, into ``out``."""

    configs: Path
    base: Path
    out: Path

    @property
    def run(self) -> Path:
        """The folder of its run."""
        return self.out / "run"

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """(what it is, arguments of Python), in order."""
        run, data, cache = str(self.run), str(self.out / "data"), str(self.out / "cache")
        deploy = ["deploy_to_lmstudio", run, *self._settings("deploy"), "--set", f"home={self.out / 'lmstudio'}"]
        train = ["train_final", data, *self._settings("train")]
        test = ["test_v2_model", run, data, *self._settings("eval")]
        (self.out / "lmstudio").mkdir(parents=True, exist_ok=True)
        yield from (
            self._tool("prepare_data", *self._settings("data"), "--out", data),
            self._tool(*train, "--out", run, "--plan"),
            self._tool(*train, "--out", run, "--cache", cache),
            self._tool(*train, "--out", str(self.out / "together"), "--cache", cache, "--hosts", "2"),
            self._tool("monitor_training", run, "--once"),
            self._tool(*test),
            self._tool(*test, "--review"),
            self._tool(*test, "--prompt", "血压 140/90?"),
            self._tool(*deploy, "--allow-failed-gate"),
            self._tool(*deploy, "--prove"),
            self._tool("inspect_model", str(self.base)),
            self._tool("export_hf", run, *deploy[2:], "--out", str(self.out / "hf")),
            self._tool("import_adapter", run, "--base", str(self.base), "--out", str(self.out / "imported")),
            self._tool("make_report", run, "--out", str(self.out / "report")),
            self._tool("bench_training", "--out", str(self.out / "bench"), *BENCH.split()),
            ("a question to LM Studio", ["-c", ASK, run]),
        )

    def _settings(self, stage: str) -> list[str]:
        short = [part for value in SHORT.get(stage, ()) for part in ("--set", value)]
        return ["--config", str(self.configs / f"{stage}.yaml"), *short]

    def _tool(self, name: str, *arguments: str) -> tuple[str, list[str]]:
        marks = [mark for mark in arguments if mark.startswith("--") and mark in SHOWN]
        return " ".join([name, *marks]), [str(TOOLS / f"{name}.py"), *arguments]


SHOWN = ("--plan", "--hosts", "--once", "--review", "--prompt", "--prove")
