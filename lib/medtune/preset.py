"""A preset for LM Studio: the system prompt and sampling of a medical model, to be chosen in the chat's sidebar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medtune import files

# Qwen's own advice for Qwen3-VL-Instruct but cooler; the app's defaults (0.8 and a repeat penalty) invent more.
SAMPLING: dict[str, Any] = {
    "llm.prediction.temperature": 0.3,
    "llm.prediction.topKSampling": 20,
    "llm.prediction.topPSampling": {"checked": True, "value": 0.8},
    "llm.prediction.minPSampling": {"checked": False, "value": 0},
    "llm.prediction.repeatPenalty": {"checked": False, "value": 1.0},
    "llm.prediction.maxPredictedTokens": {"checked": True, "value": 1024},
}


def preset(name: str, system_prompt: str) -> dict[str, Any]:
    """The content of a `.preset.json`."""
    values = {"llm.prediction.systemPrompt": system_prompt, **SAMPLING} if system_prompt else SAMPLING
    fields = [{"key": key, "value": value} for key, value in values.items()]
    return {
        "identifier": f"@local:{name}",
        "name": name,
        "changed": False,
        "operation": {"fields": fields},
        "load": {"fields": []},
    }


def path(home: Path, name: str) -> Path:
    """Where LM Studio keeps the preset ``name``."""
    return home / "config-presets" / f"{name}.preset.json"


def write(home: Path, name: str, system_prompt: str) -> Path:
    """Write the preset under LM Studio's home and return its path."""
    files.write_json(path(home, name), preset(name, system_prompt))
    return path(home, name)
