"""What every test shares: a home folder of its own, no network, and small model folders."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

# Hugging Face's libraries read these when they are imported, so before any test module.
_HOME = tempfile.TemporaryDirectory(prefix="medtune-tests-")
os.environ.update(
    HOME=_HOME.name,
    HF_HOME=f"{_HOME.name}/huggingface",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    MPLCONFIGDIR=f"{_HOME.name}/matplotlib",
    MEDTUNE_LANG="en",
)
for _name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE", "MEDTUNE_ALLOW_DOWNLOAD", "LC_ALL", "MAKEFLAGS", "MAKELEVEL"):
    os.environ.pop(_name, None)

from medtune.demo.random_model import DEMO_MODEL, write_twin  # noqa: E402
from medtune.model import runtime  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


with redirect_stdout(None):
    ENGINE = runtime.start()  # before any test module imports MLX, whether or not the header is shown


def pytest_report_header() -> str:
    """With what the tests run."""
    return ENGINE


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the person's home, so neither their LM Studio, nor one another's."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Refuse every connection that leaves the machine."""
    with pytest.MonkeyPatch.context() as patch:
        connect, resolve = socket.socket.connect, socket.getaddrinfo

        def guarded_connect(self: socket.socket, address: Any) -> None:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOOPBACK):
                raise OSError(f"tests have no network: {address}")
            connect(self, address)

        def guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if name and not name.startswith(LOOPBACK):
                raise OSError(f"tests have no network: {name}")
            return resolve(host, *args, **kwargs)

        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_resolve)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The pretrained demo model; tests read it only."""
    return DEMO_MODEL


@pytest.fixture(scope="session")
def dense_twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random dense Qwen3-VL of four layers, float32; tests read it only."""
    return write_twin(tmp_path_factory.mktemp("dense_twin"), moe=False)


@pytest.fixture(scope="session")
def moe_twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mixture-of-experts Qwen3-VL of four layers, float32; tests read it only."""
    return write_twin(tmp_path_factory.mktemp("moe_twin"), moe=True)
