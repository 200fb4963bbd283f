"""The MLX runtime: a fast BLAS before MLX on Linux, and a probe that the libraries are those this code was written for.

Import this module and call ``start`` before anything imports ``mlx.core``.
"""

from __future__ import annotations

from medtune.start import quitting

import importlib
import re
import resource
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import blas
from medtune.model.families import FAMILIES

if TYPE_CHECKING:
    import mlx.core as mx

LEAST_FILES, ENOUGH_FILES = 128, 1024  # that may be open at a time: imports alone take dozens
WORK = 2**29  # bytes of addresses that MLX's threads and buffers take beside the weights of a small model

# What the code calls, by the distribution that has it: (distribution, module, attribute).
USED = (
    ("mlx", "mlx.core", "compile"),
    ("mlx", "mlx.core.fast", "scaled_dot_product_attention"),
    ("mlx", "mlx.utils", "tree_unflatten"),
    ("mlx-lm", "mlx_lm", "load"),
    ("mlx-lm", "mlx_lm.models.switch_layers", "QuantizedSwitchLinear"),
    ("mlx-vlm", "mlx_vlm.utils", "load_model"),
    ("mlx-vlm", "mlx_vlm.utils", "load_processor"),
    ("mlx-vlm", "mlx_vlm.trainer.peft.lora_layers", "LoRALinear"),
    ("mlx-vlm", "mlx_vlm.trainer.peft.lora_layers", "LoRASwitchLinear"),
    ("mlx-vlm", "mlx_vlm.trainer.peft.dora_layers", "DoRALinear"),
    ("mlx-vlm", "mlx_vlm.models.base", "InputEmbeddingsFeatures"),
    ("mlx-vlm", "mlx_vlm.models.cache", "make_prompt_cache"),
    *((family.library.distribution, family.classes, "Model") for family in FAMILIES.values()),
)


@cache
def start() -> str:
    """Speed up the CPU where it computes, probe the libraries, print one line and return it; once per process."""
    _allow_files()
    multiplier = blas.load()
    with quitting():
        probe()
        import mlx.core as mx

        from medtune.model import cpu

    cpu.install()

    device = "Metal" if mx.metal.is_available() else str(mx.default_device()).removeprefix("Device(").split(",")[0]
    names = ", ".join(f"{name} {metadata.version(name)}" for name in ("mlx", "mlx-lm", "mlx-vlm"))
    line = f"{names} · {device}{f' · {multiplier}' if multiplier else ''}"
    print(line, flush=True)
    return line


def _allow_files() -> None:
    """Let this process open as many files as the libraries need; a UserError where the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < ENOUGH_FILES and (hard == resource.RLIM_INFINITY or hard > soft):
        soft = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < LEAST_FILES:
        raise UserError(
            tr("only {n} files may be open at a time; run `ulimit -n {enough}` first", n=soft, enough=ENOUGH_FILES)
        )


def check_memory(weights: int) -> None:
    """Raise a UserError where a limit of the shell (ulimit -v) leaves less than ``weights`` bytes and the work on them.

    MLX would wait for ever for a thread that could not be started, or end in the middle.
    """
    limit, pages = resource.getrlimit(resource.RLIMIT_AS)[0], Path("/proc/self/statm")
    if limit == resource.RLIM_INFINITY or not pages.exists():
        return
    room = limit - int(pages.read_text().split()[0]) * resource.getpagesize()
    if room < weights + WORK:
        raise UserError(
            tr(
                "the limit of this shell leaves {room} of memory, the model takes {needed}; run `ulimit -v unlimited` "
                "first",
                room=files.megabytes(max(room, 0)),
                needed=files.megabytes(weights + WORK),
            )
        )


def probe() -> None:
    """Raise a UserError naming every API this code uses that is missing, and the pin that has it."""
    missing = [(dist, f"{module}.{name}") for dist, module, name in USED if not _has(module, name)]
    if not missing:
        return
    pins = sorted({_pin(dist) for dist, _ in missing})
    apis = ", ".join(api for _, api in missing)
    found = ", ".join(f"{dist} {_version(dist)}" for dist in dict.fromkeys(dist for dist, _ in missing))
    raise UserError(
        tr(
            "{found}: {apis} is missing; install the proven version: {python} -m pip install {pins}",
            found=found,
            apis=apis,
            python=sys.executable,
            pins=" ".join(f"'{pin}'" for pin in pins),
        )
    )


def _has(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name)
    except MemoryError:
        raise
    except Exception:  # half installed, or beside a library of another version, it may fail with anything
        return False


def _version(dist: str) -> str:
    try:
        return metadata.version(dist)
    except metadata.PackageNotFoundError:
        return tr("not installed")


def _pin(dist: str) -> str:
    """The exact requirement of this package on ``dist`` for this system, e.g. ``mlx-vlm==0.7.10``."""
    wanted = f"sys_platform == '{sys.platform}'"
    for requirement in metadata.requires("medtune") or []:
        spec, _, marker = requirement.partition(";")
        name = re.split(r"[\[=<>! ]", spec, maxsplit=1)[0]
        if name == dist and "extra" not in marker and (not marker or wanted in marker.replace('"', "'")):
            return spec.strip()
    return dist


def compute_dtype() -> mx.Dtype | None:
    """float32 on a CPU, where half precision is pathologically slow; None elsewhere: as the model is stored."""
    import mlx.core as mx

    return mx.float32 if mx.default_device().type == mx.DeviceType.cpu else None
