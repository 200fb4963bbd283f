"""The two worlds of the demo: what its data ask about, and what its base model was raised on."""

from __future__ import annotations

import hashlib
from typing import Literal

World = Literal["demo", "pretraining", "reserved"]

# What the recommended test cases ask: nobody trains on the figures, and only the base model has heard of the complaint.
RESERVED: dict[str, World] = {"血压:140/90": "reserved", "体温:38.5": "reserved", "症状:疲劳": "pretraining"}


def of(cluster: str) -> World:
    """Which of the two generators may use this cluster.

    The demo's data and the model's pre-training share the facts but no cluster: a hash decides, so neither needs to
    know what the other drew, and a test set can never have been seen in pre-training.
    """
    if cluster in RESERVED:
        return RESERVED[cluster]
    return "demo" if hashlib.sha256(cluster.encode()).digest()[0] % 2 else "pretraining"
