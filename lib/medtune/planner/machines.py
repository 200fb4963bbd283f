"""How much memory a machine lets a model use, and how much disk."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

from medtune.files import folders
from medtune.receipt import machine

MACS = (8, 16, 24, 32, 48, 64, 128)  # GB of unified memory, as sold
GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """A machine's memory, the share of it that a model may take, and its free disk, in bytes."""

    memory: float
    usable: float
    disk: float = inf

    @classmethod
    def mac(cls, gigabytes: float) -> Machine:
        """A Mac: Metal's recommended working set is about two thirds of the memory, three quarters from 36 GB on."""
        return cls(gigabytes * GIB, gigabytes * GIB * (2 / 3 if gigabytes < 36 else 3 / 4))

    @classmethod
    def here(cls) -> Machine:
        """This machine and the disk of the working folder; outside macOS four fifths of the memory are usable."""
        facts, disk = machine(), folders.free_bytes(Path.cwd())
        memory = facts["memory_gb"] * GIB
        usable = cls.mac(facts["memory_gb"]).usable if facts["system"] == "Darwin" else 0.8 * memory
        return cls(memory, usable, disk)
