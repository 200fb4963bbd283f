"""Running programs so that nothing they send stays unseen: a hook in every Python, and a proxy that writes down."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medtune import files
from medtune.files import Json

HOOK = Path(__file__).with_name("hook")
LIBRARY = Path(__file__).resolve().parents[2]
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")
REFUSED = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
HEARD = 200  # bytes of a request that are kept


@dataclass
class Lookout:
    """What the programs run with ``run`` tried to reach; ``log`` is where their processes write."""

    log: Path
    proxy: str
    asked: list[bytes] = field(default_factory=list)  # the beginnings of what came to the proxy

    def run(self, command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program of this interpreter, watched, and all it starts."""
        known = dict.fromkeys((*PROXIES, *(name.upper() for name in PROXIES)), self.proxy)
        path = os.pathsep.join([str(HOOK), str(LIBRARY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        watched = {**os.environ, **known, "no_proxy": "", "NO_PROXY": "", "PYTHONPATH": path, **environment}
        watched["MEDTUNE_WATCH"] = str(self.log)
        return subprocess.run([sys.executable, *command], env=watched, capture_output=True, text=True)

    @property
    def rows(self) -> list[Json]:
        """Every process, look-up, connection and address listened on, in order."""
        return [row for _, row in files.read_jsonl(self.log)] if self.log.exists() else []

    @property
    def processes(self) -> int:
        """How many Python processes were watched."""
        return sum(row["event"] == "process" for row in self.rows)

    @property
    def left(self) -> list[Json]:
        """What would have left this machine."""
        return [row for row in self.rows if not row["here"]]


@contextmanager
def watching(log: Path) -> Iterator[Lookout]:
    """Yield a watch whose proxy answers, with a refusal, until the end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        watch = Lookout(log.absolute(), f"http://127.0.0.1:{listening.getsockname()[1]}")
        threading.Thread(target=_refuse, args=(listening, watch.asked), daemon=True).start()
        yield watch
        listening.shutdown(socket.SHUT_RDWR)


def _refuse(listening: socket.socket, asked: list[bytes]) -> None:
    while True:
        try:
            caller, _ = listening.accept()
        except OSError:  # closed: the watch is over
            return
        with caller:
            caller.settimeout(1)
            try:
                asked.append(caller.recv(HEARD))
                caller.sendall(REFUSED)
            except OSError:
                asked.append(b"")
