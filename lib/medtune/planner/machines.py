"""How much memory a machine lets a model use."""

from __future__ import annotations

from dataclasses import dataclass

from medtune.receipt import machine

MACS = (8, 16, 24, 32, 48, 64, 128)  # GB of unified memory, as sold
GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """A machine's memory and the share of it that a model may take, in bytes."""

    memory: float
    usable: float

    @classmethod
    def mac(cls, gigabytes: float) -> Machine:
        """A Mac: Metal's recommended working set is about two thirds of the memory, three quarters from 36 GB on."""
        return cls(gigabytes * GIB, gigabytes * GIB * (2 / 3 if gigabytes < 36 else 3 / 4))

    @classmethod
    def here(cls) -> Machine:
        """This machine; outside macOS four fifths of the memory are counted as free for it."""
        facts = machine()
        if facts["system"] == "Darwin":
            return cls.mac(facts["memory_gb"])
        return cls(facts["memory_gb"] * GIB, facts["memory_gb"] * GIB * 0.8)
