"""The BLAS that MLX multiplies with on Linux: its wheel brings the reference one, and OpenBLAS is 20 times faster.

Symbols that are loaded globally before ``mlx.core`` are used instead of the wheel's. The system's OpenBLAS is taken,
else one that a package of this environment brought; either only after a trial in a process of its own, since old builds
compute wrongly or crash on processors that came after them. No MLX here.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medtune.i18n import tr
from medtune.model import blas_trial

TAKEN = "MEDTUNE_OPENBLAS"  # tells the processes that this one starts which library was taken
KERNELS = "OPENBLAS_CORETYPE"  # OpenBLAS's own: the processor it is to compute for
PATIENCE = 20  # seconds a trial may take; it takes 0.05


@dataclass(frozen=True)
class OpenBlas:
    """An OpenBLAS, as the loader finds it, and the distribution that brought it; "" where it is the system's."""

    path: str
    distribution: str = ""

    @property
    def settings(self) -> dict[str, str]:
        """What it needs in the environment: an old build takes an AMD processor newer than itself for one of 2007."""
        return {KERNELS: "Haswell"} if self.distribution and KERNELS not in os.environ and _amd_with_avx2() else {}

    def trial(self) -> int:
        """0 where it multiplies rightly here, ``blas_trial.ABSENT`` where there is none."""
        command = [sys.executable, "-I", "-S", str(Path(blas_trial.__file__)), self.path]
        try:
            return subprocess.run(
                command, env={**os.environ, **self.settings}, capture_output=True, timeout=PATIENCE
            ).returncode
        except subprocess.TimeoutExpired:
            return 1


def candidates(packages: Path | None = None) -> list[OpenBlas]:
    """The system's, then what the distributions in ``packages``, those of this environment, brought for themselves."""
    folder = packages or Path(sysconfig.get_path("platlib"))
    brought = sorted(folder.glob("*.libs/libopenblas*.so*"))
    return [
        OpenBlas("libopenblas.so.0"),
        *(OpenBlas(str(path), path.parent.stem.replace("_", "-")) for path in brought),
    ]


def load(libraries: Iterable[OpenBlas] | None = None) -> str:
    """Take the first of ``libraries``, by default of ``candidates()``, that multiplies rightly; return what to say.

    Call it before ``mlx.core`` is imported; "" where MLX needs none.
    """
    if not sys.platform.startswith("linux"):
        return ""
    if "mlx.core" in sys.modules:
        return "BLAS: as loaded before"
    wrong = []
    for library in candidates() if libraries is None else libraries:
        found = library.trial()
        if found == 0:
            os.environ.update({TAKEN: library.path, **library.settings})
            ctypes.CDLL(library.path, mode=ctypes.RTLD_GLOBAL)
            return _name(library)
        wrong += [library] if found != blas_trial.ABSENT else []
    if wrong:
        return tr(
            "{names} computes wrongly on this CPU, so MLX's own, much slower, is used (Debian: a newer "
            "libopenblas0-pthread)",
            names=", ".join(map(_name, wrong)),
        )
    return tr("OpenBLAS not found: much slower on this CPU (Debian: apt-get install libopenblas0-pthread)")


def _name(library: OpenBlas) -> str:
    if library.distribution:
        return tr("OpenBLAS ({distribution}'s)", distribution=library.distribution)
    return tr("OpenBLAS (system)")


def _amd_with_avx2() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    words = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "AuthenticAMD" in words and "avx2" in words
