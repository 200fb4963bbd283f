"""Figures as people read them; each kind of figure is written in one way everywhere in a report."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from medtune.files import megabytes
from medtune.i18n import Lang, tr


class Numbers:
    """The ways to write a figure, in one language; None and empty text are ``not measured``."""

    def __init__(self, lang: Lang):
        self.lang: Lang = lang
        self.missing = tr("not measured", lang)

    def write(self, value: Any, how: str) -> str:
        """``value`` in the way named ``how``: one of this class's methods."""
        if value is None or value == "":
            return self.missing
        way: Callable[[Any], str] = getattr(self, how)
        return way(value)

    def text(self, value: Any) -> str:
        """Words as they are; lists with commas; truth as yes and no."""
        if isinstance(value, bool):
            return tr("yes" if value else "no", self.lang)
        if isinstance(value, list):
            return ", ".join(map(self.text, value))
        return str(value)

    def loss(self, value: float) -> str:
        """A loss in nats: 0.311."""
        return f"{value:.3f}"

    def score(self, value: float) -> str:
        """A score between 0 and 1: 0.812."""
        return f"{value:.3f}"

    def signed(self, value: float) -> str:
        """A difference with its sign: +0.190, -0.020 with a true minus."""
        return f"{value:+.3f}".replace("-", "−")

    def chance(self, value: float) -> str:
        """A p-value: 0.013, or < 0.001."""
        return "< 0.001" if value < 0.001 else f"{value:.3f}"

    def percent(self, value: float) -> str:
        """A share: 63.1%."""
        return f"{100 * value:.1f}%"

    def count(self, value: float) -> str:
        """A whole number with thousands separated: 35,651,584."""
        return f"{value:,.0f}"

    def number(self, value: float) -> str:
        """A setting as one writes it: 5e-06, 0.01, 128."""
        return f"{value:g}"

    def rate(self, value: float) -> str:
        """A speed: 0.95, 240."""
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"

    def gigabytes(self, value: float) -> str:
        """Memory as the run reports it: 18.80 GB."""
        return f"{value:.2f} GB"

    def size(self, value: float) -> str:
        """A file's size: 136.0 MiB."""
        return megabytes(value)

    def duration(self, value: float) -> str:
        """A time span in its two largest units: 35 min 12 s."""
        units = (("{n} h", 3600), ("{n} min", 60), ("{n} s", 1))
        if value < 60:
            return tr("{n} s", self.lang, n=f"{value:.1f}")
        rest, parts = round(value), []
        for sentence, seconds in units:
            count, rest = divmod(rest, seconds)
            if count:
                parts.append(tr(sentence, self.lang, n=count))
        return " ".join(parts[:2])

    def moment(self, value: str) -> str:
        """A moment of a receipt (ISO 8601) to the minute, with its zone: 2025-12-05 20:09 +08:00."""
        when = datetime.fromisoformat(value)
        return when.strftime("%Y-%m-%d %H:%M ") + (when.strftime("%z")[:3] + ":" + when.strftime("%z")[3:]).strip(":")
