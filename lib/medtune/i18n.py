"""Chinese or English for people: the English sentence is the key, ``texts/zh.yaml`` holds the Chinese.

The language is ``MEDTUNE_LANG`` (zh or en), else that of the system's locale, else English.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

Lang = Literal["zh", "en"]
Words = Mapping[Lang, str]  # a name or a sentence in both languages, where it stands beside what it names
TEXTS = Path(__file__).parent / "texts"


def language() -> Lang:
    """The language for the screen."""
    chosen = os.environ.get("MEDTUNE_LANG", "").strip().lower()
    locale = next((os.environ[key] for key in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(key)), "")
    return "zh" if (chosen or locale.lower()).startswith("zh") else "en"


def tr(sentence: str, lang: Lang | None = None, **values: Any) -> str:
    """Say ``sentence`` in the person's language, ``{name}`` filled from ``values``."""
    if (lang or language()) == "zh":
        sentence = _chinese().get(sentence, sentence)
    return sentence.format(**values) if values else sentence


def say(words: Words, lang: Lang | None = None, **values: Any) -> str:
    """Say what stands in both languages, ``{name}`` filled from ``values``."""
    sentence = words[lang or language()]
    return sentence.format(**values) if values else sentence


@cache
def _chinese() -> dict[str, str]:
    import yaml

    return yaml.safe_load((TEXTS / "zh.yaml").read_text(encoding="utf-8")) or {}
