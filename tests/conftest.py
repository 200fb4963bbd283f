"""What every test shares: a home folder of its own, no network, and small model folders."""

from __future__ import annotations

import os
import socket
import sys
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
from tests.tiers import imports_mlx  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")
HEAVY = {"demo_model", "dense_twin", "moe_twin", "real_figures"}  # fixtures


def _without_mlx(config: pytest.Config) -> bool:
    """Whether only tests without a model were asked for: make test-fast, where not even MLX is imported."""
    return "not model" in config.option.markexpr


def pytest_configure(config: pytest.Config) -> None:
    """Start the engine before any test module imports MLX."""
    if not _without_mlx(config):
        with redirect_stdout(None):
            runtime.start()


def pytest_report_header(config: pytest.Config) -> str:
    """With what the tests run."""
    with redirect_stdout(None):
        return "without MLX" if _without_mlx(config) else runtime.start()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What imports MLX is of the tier `model`, all of it: there is no need to read it where that is not wanted."""
    return True if _without_mlx(config) and collection_path.suffix == ".py" and imports_mlx(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark `model` by what a test uses: MLX, a model folder, matplotlib."""
    for item in items:
        if HEAVY & set(getattr(item, "fixturenames", ())) or imports_mlx(item.path):
            item.add_marker("model")


@pytest.fixture(autouse=True)
def _no_mlx(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that imports MLX on its way belongs to the tier `model`: say so by its mark, with the reason."""
    before = "mlx.core" in sys.modules
    yield
    if not before and "mlx.core" in sys.modules:
        pytest.fail("imports MLX: mark it @pytest.mark.model(reason)")


@pytest.fixture(autouse=True)
def _home_of_its_own(_no_mlx: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the person's home, so neither their LM Studio, nor one another's."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Tests kill programs, but nobody pulls the plug: without fsync they do not wait for what else the disk does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


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
