"""The demo's images: laboratory sheets, chest films, fundus photographs and ECG strips, drawn with known truth.

Every side is a multiple of 32 pixels, so the processor leaves them as they are and one visual token covers one
32 x 32 cell; the sheets set one character of a figure into each 16-pixel patch, which a small tower can read.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from medtune.demo.config import MERGE, PATCH

CELL = PATCH * MERGE
COLUMNS, VALUE_COLUMN, ARROW_COLUMN = 7, 3, 5  # of a sheet, in cells
Flag = Literal["高", "低", "阳性", "弱阳性", ""]


@dataclass(frozen=True)
class SheetRow:
    """One line of a laboratory sheet."""

    item: str
    value: str
    flag: Flag


@dataclass(frozen=True)
class Sheet:
    """A laboratory sheet: 血常规 or 尿常规 with four rows."""

    title: str
    rows: tuple[SheetRow, ...]

    @property
    def cluster(self) -> str:
        """Sheets with the same figures are the same sheet."""
        return self.title + ":" + ",".join(row.value for row in self.rows)

    @property
    def flagged(self) -> tuple[SheetRow, ...]:
        """The rows outside their range."""
        return tuple(row for row in self.rows if row.flag)


@dataclass(frozen=True)
class Examination:
    """A drawn examination without figures: what it is, what it shows, and who reads it."""

    kind: str
    finding: str  # "" when nothing stands out
    department: str
    seed: int

    @property
    def cluster(self) -> str:
        """Every drawing is its own patient."""
        return f"{self.kind}:{self.seed}"


# item, reference range of a woman, plausible values, digits
BLOOD_ROWS = (
    ("白细胞", (3.5, 9.5), (1.2, 19.0), 1),
    ("血红蛋白", (115, 150), (62, 185), 0),
    ("血小板", (125, 350), (42, 520), 0),
    ("中性粒", (40, 75), (18, 95), 0),
)
URINE_ROWS = ("尿蛋白", "葡萄糖", "潜血", "白细胞")
URINE_VALUES: tuple[tuple[str, Flag], ...] = (
    ("-", ""),  # three times: mostly it is as it should be
    ("-", ""),
    ("-", ""),
    ("±", "弱阳性"),
    ("1+", "阳性"),
    ("2+", "阳性"),
    ("3+", "阳性"),
)
ZONES = tuple(side + zone for side in ("右肺", "左肺") for zone in ("上野", "中野", "下野"))
RHYTHMS = ("心率偏快", "心率偏慢", "节律不齐")
FINDINGS: dict[str, tuple[str, ...]] = {  # "" when nothing stands out
    "胸片": ("", *(f"{zone}片状阴影" for zone in ZONES)),
    "眼底照片": ("", "视网膜多处出血点"),
    "心电图": ("", *RHYTHMS),
}
DEPARTMENTS = {"胸片": "呼吸科", "眼底照片": "眼科", "心电图": "心内科"}


def draw_blood_sheet(rng: random.Random) -> Sheet:
    """A blood count of a woman, about one row in three outside its range."""
    rows = []
    for item, (low, high), (least, most), digits in BLOOD_ROWS:
        a, b = rng.choice(((least, low), (low, high), (low, high), (low, high), (low, high), (high, most)))
        value = round(rng.uniform(a, b), digits)
        flag: Flag = "低" if value < low else "高" if value > high else ""
        rows.append(SheetRow(item, f"{value:.{digits}f}", flag))
    return Sheet("血常规", tuple(rows))


def draw_urine_sheet(rng: random.Random) -> Sheet:
    """A urine strip, whose normal value is a minus sign."""
    return Sheet("尿常规", tuple(SheetRow(item, *rng.choice(URINE_VALUES)) for item in URINE_ROWS))


def draw_examination(rng: random.Random) -> Examination:
    """A chest film, a fundus or an ECG strip, one in three without a finding."""
    kind = rng.choice(list(FINDINGS))
    finding = rng.choice(FINDINGS[kind][1:]) if rng.random() < 0.67 else ""
    return Examination(kind, finding, DEPARTMENTS[kind], rng.randrange(10**6))


@lru_cache(4096)
def render(shown: Sheet | Examination) -> Image.Image:
    """The image of what is shown; the same truth gives the same pixels."""
    if isinstance(shown, Sheet):
        return _sheet(shown, random.Random(shown.cluster))
    paint = {"胸片": _chest, "眼底照片": _fundus, "心电图": _ecg}[shown.kind]
    return paint(shown.finding, random.Random(shown.cluster))


def cells(shown: Sheet | Examination) -> list[tuple[str, str, str]]:
    """What each visual token should know, row by row: sign on its left, on its right, and its topic.

    The topic is the row's item on a sheet and its title in the first row. On an examination it is the kind, with the
    finding where the finding changes what is drawn.
    """
    if isinstance(shown, Examination):
        return [("", "", shown.kind + (shown.finding if here else "")) for here in _touched(shown)]
    known = [("", "", shown.title)] * COLUMNS
    for row in shown.rows:
        signs = [""] * (2 * COLUMNS)
        signs[2 * VALUE_COLUMN : 2 * VALUE_COLUMN + len(row.value)] = row.value
        if shown.title == "血常规" and row.flag:
            signs[2 * ARROW_COLUMN] = signs[2 * ARROW_COLUMN + 1] = row.flag
        known += [(signs[2 * i], signs[2 * i + 1], shown.title + row.item) for i in range(COLUMNS)]
    return known


def _touched(examination: Examination) -> list[bool]:
    """Which cells, row by row, look otherwise than they would without the finding."""
    with_it, without = (
        np.asarray(render(one).convert("L"), np.int16) for one in (examination, replace(examination, finding=""))
    )
    high, wide = (side // CELL for side in with_it.shape)
    change = np.abs(with_it - without).reshape(high, CELL, wide, CELL).mean((1, 3))
    return [bool(here) for here in (change > 4).ravel()]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Noto Sans SC, from the package pylopdf-fonts-zh-cn (OFL-1.1; needed to draw, not to use the drawings)."""
    from importlib.resources import files

    return ImageFont.truetype(str(files("pylopdf_fonts_zh_cn") / "NotoSansSC-Regular.otf"), size)


def _sheet(sheet: Sheet, rng: random.Random) -> Image.Image:
    paper = rng.randrange(228, 256, 4)
    image = Image.new("L", (COLUMNS * CELL, (1 + len(sheet.rows)) * CELL), paper)
    pen = ImageDraw.Draw(image)
    pen.text((image.width // 2, CELL // 2), f"{sheet.title}报告", font=_font(22), fill=20, anchor="mm")
    pen.line((4, CELL - 1, image.width - 4, CELL - 1), fill=90)
    for index, row in enumerate(sheet.rows, start=1):
        middle = index * CELL + CELL // 2 + rng.choice((-1, 0, 1))
        pen.text((6, middle), row.item, font=_font(20), fill=30, anchor="lm")
        for place, sign in enumerate(row.value):
            x = VALUE_COLUMN * CELL + place * PATCH + PATCH // 2
            pen.text((x, middle), sign, font=_font(24), fill=0, anchor="mm")
        if sheet.title == "血常规" and row.flag:
            arrow = "↑" if row.flag == "高" else "↓"
            pen.text((ARROW_COLUMN * CELL + PATCH, middle), arrow, font=_font(24), fill=0, anchor="mm")
    return image


def _chest(finding: str, rng: random.Random) -> Image.Image:
    side = 6 * CELL
    image = Image.new("L", (side, side), rng.randrange(150, 190))
    pen = ImageDraw.Draw(image)
    shift, top, dark, rib_at = rng.randrange(-5, 6), rng.randrange(22, 31), rng.randrange(40, 60), rng.randrange(20)
    for left in (18 + shift, 102 + shift):  # lungs are dark, with pale ribs across them
        pen.ellipse((left, top, left + 72, 168), fill=dark)
        for rib in range(30 + rib_at, 160, 20):
            pen.arc((left, rib, left + 72, rib + 26), 200, 340, fill=dark + 40, width=3)
    apex = rng.randrange(90, 104)
    pen.ellipse((88 + shift, apex, 138 + shift, 164), fill=176)  # the heart, to the viewer's right
    if finding:  # the patient's right lung is on the viewer's left
        x = (54 if finding.startswith("右") else 138) + shift + rng.randrange(-8, 9)
        y = {"上": 58, "中": 97, "下": 136}[finding[2]] + rng.randrange(-6, 7)
        radius = rng.randrange(14, 21)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=rng.randrange(196, 228))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(2)))
    return Image.fromarray(soft // 3 * 3)  # fewer greys, smaller files


def _fundus(finding: str, rng: random.Random) -> Image.Image:
    side = 5 * CELL
    image = Image.new("RGB", (side, side), (0, 0, 0))
    pen = ImageDraw.Draw(image)
    pen.ellipse((4, 4, side - 4, side - 4), fill=(196 + rng.randrange(-12, 13, 4), 92, 40))
    x, y = rng.choice((46, side - 46)) + rng.randrange(-4, 5), side // 2 + rng.randrange(-6, 7)
    for turn in range(8):  # vessels leave the optic disc
        angle = turn * math.pi / 4 + rng.uniform(-0.2, 0.2)
        middle = (x + 38 * math.cos(angle), y + 38 * math.sin(angle))
        end = (x + 80 * math.cos(angle + 0.3), y + 80 * math.sin(angle + 0.3))
        pen.line([(x, y), middle, end], fill=(138, 36, 24), width=2)
    pen.ellipse((x - 12, y - 12, x + 12, y + 12), fill=(244, 208, 136))
    for _ in range(rng.randrange(12, 19) if finding else 0):
        a, r = rng.uniform(0, 2 * math.pi), rng.uniform(20, 62)
        u, v = side / 2 + r * math.cos(a), side / 2 + r * math.sin(a)
        size = rng.uniform(3, 6)
        pen.ellipse((u - size, v - size, u + size, v + size), fill=(88, 8, 8))
    disc = Image.new("L", (side, side), 0)
    ImageDraw.Draw(disc).ellipse((4, 4, side - 4, side - 4), fill=255)
    return Image.composite(image, Image.new("RGB", (side, side)), disc).quantize(32).convert("RGB")


def _ecg(finding: str, rng: random.Random) -> Image.Image:
    width, height = 8 * CELL, 3 * CELL
    image = Image.new("RGB", (width, height), (255, 240, 240))
    pen = ImageDraw.Draw(image)
    for line in range(0, width, PATCH):
        pen.line((line, 0, line, height), fill=(244, 196, 196))
    for line in range(0, height, PATCH):
        pen.line((0, line, width, line), fill=(244, 196, 196))
    base = height * 5 // 8 + rng.randrange(-6, 7)
    gap = {"心率偏快": 26, "心率偏慢": 84}.get(finding, 50) + rng.randrange(-3, 4)
    x, points = rng.randrange(4, 20), [(0, base)]
    while x < width - 14:
        peak, late = rng.randrange(-44, -31), rng.randrange(-9, -4)  # no two beats are quite alike
        wave = ((0, 0), (3, -4), (6, 0), (8, 5), (10, peak), (12, 9), (14, 0), (17, late), (21, 0))
        points += [(x + dx, base + dy) for dx, dy in wave]
        x += gap + (rng.choice((-20, -12, 14, 30)) if finding == "节律不齐" else 0)
    pen.line([*points, (width, base)], fill=(20, 20, 60), width=2)
    return image
