"""Hugging Face's cache on this machine, and the one way in which anything is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medtune.errors import UserError
from medtune.i18n import tr


def folder(name: str) -> Path | None:
    """Where a Hub id lies in the local cache, or would; None where it is no id."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except HFValidationError:
        return None  # a path with a space: no Hub id
    except LocalEntryNotFoundError:
        return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def download(name: str) -> Path:
    """Fetch a model's data, no program, into the local cache; a UserError where that fails."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with _online():
            return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"]))
    except (HfHubHTTPError, OSError) as error:
        raise UserError(tr("{name}: the download failed ({error})", name=name, error=error)) from error


@contextmanager
def _online() -> Iterator[None]:
    """The one moment at which Hugging Face's libraries may open a connection."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = True
