"""A report on disk: REPORT.md, REPORT.html and figures/."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from medtune import files
from medtune.i18n import Lang
from medtune.report import content, figures, markdown, page
from medtune.report.facts import Facts

LARGEST_EDGE = 900  # pixels of a case's picture


def write(facts: Facts, out: Path, lang: Lang, now: str) -> Path:
    """Write the report of ``facts`` into ``out`` and return the Markdown's path; ``now`` is the moment it is dated."""
    drawn = figures.draw(facts, lang)
    photographs = {name: _png(path) for name, path in content.pictures(facts).items()}
    pictures = {name: png for name, (png, _) in drawn.items()} | photographs
    for name, png in pictures.items():
        with files.atomic(out / "figures" / f"{name}.png") as partial:
            partial.write_bytes(png)
    text = markdown.render(facts, lang, now, set(pictures))
    inline = {name: svg for name, (_, svg) in drawn.items()}
    inline |= {name: page.picture(png) for name, png in photographs.items()}
    files.write_text(out / "REPORT.html", page.render(text, facts, lang, inline))
    files.write_text(out / "REPORT.md", text)
    return out / "REPORT.md"


def _png(path: Path) -> bytes:
    """A picture small enough for a page, without what its file says of its origin."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((LARGEST_EDGE, LARGEST_EDGE))
    buffer = io.BytesIO()
    small.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
