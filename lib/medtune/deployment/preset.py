"""A preset for LM Studio: the system prompt and sampling of a medical model, to be chosen in the chat's sidebar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medtune import files

RECORD = "preset.json"  # in our folder for the model

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


def write(home: Path, name: str, system_prompt: str, work: Path) -> bool:
    """Write the preset under LM Studio's home; False where one is there that is not, or no longer, as we wrote it.

    ``work`` is our own folder for the model: it remembers what we wrote.
    """
    place = path(home, name)
    if place.exists() and not _ours(place, work):
        return False
    files.write_json(place, preset(name, system_prompt))
    files.write_json(work / RECORD, files.sealed({"path": str(place), "sha256": files.sha256(place)}))
    return True


def remove(work: Path) -> None:
    """Take away the preset that ``work`` remembers, if it is still as we wrote it."""
    place = Path(files.remembered(work / RECORD).get("path", ""))
    if _ours(place, work):
        place.unlink()


def _ours(place: Path, work: Path) -> bool:
    record = files.remembered(work / RECORD)  # damaged: then the preset counts as the person's own
    return record.get("path") == str(place) and place.exists() and files.sha256(place) == record.get("sha256")
