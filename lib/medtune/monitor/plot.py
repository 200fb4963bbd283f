"""Curves in a terminal: two by four dots to a character cell (Braille, U+2800)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from medtune.metrics import Curve

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bit of the dot in column x, row y of a cell
Cell = tuple[str, int | None]  # a character and the number of the curve that is drawn in it


@dataclass(frozen=True)
class Frame:
    """The part of the plane that is shown; steps run to the right, values up."""

    left: float
    right: float
    low: float
    high: float

    @classmethod
    def around(cls, curves: list[Curve]) -> Frame | None:
        """The smallest frame around all finite points; None when there is no point."""
        points = [(x, y) for curve in curves for x, y in curve if isfinite(y)]
        if not points:
            return None
        xs, ys = [x for x, _ in points], [y for _, y in points]
        margin = (max(ys) - min(ys)) * 0.02 or abs(max(ys)) * 0.05 or 1.0
        return cls(min(xs), max(max(xs), min(xs) + 1), min(ys) - margin, max(ys) + margin)


def draw(curves: list[Curve], width: int, height: int) -> list[list[Cell]]:
    """Draw the curves as ``height`` rows of ``width`` cells; a later curve is drawn over an earlier one."""
    frame = Frame.around(curves)
    bits = [[0] * width for _ in range(height)]
    owner: list[list[int | None]] = [[None] * width for _ in range(height)]
    if frame is not None:
        for number, curve in enumerate(curves):
            for x, y in _dots(curve, frame, 2 * width, 4 * height):
                bits[y // 4][x // 2] |= DOTS[x % 2][y % 4]
                owner[y // 4][x // 2] = number
    return [
        [(chr(0x2800 + b) if b else " ", who) for b, who in zip(row, owners, strict=True)]
        for row, owners in zip(bits, owner, strict=True)
    ]


def _dots(curve: Curve, frame: Frame, columns: int, rows: int) -> list[tuple[int, int]]:
    """The dots (column, row from the top) of the straight lines between a curve's finite points."""

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - frame.left) / (frame.right - frame.left) * (columns - 1)
        down = (frame.high - y) / (frame.high - frame.low) * (rows - 1)
        return across, down

    places = [place(x, y) for x, y in curve if isfinite(y)]
    dots = [(round(x), round(y)) for x, y in places[:1]]
    for (x0, y0), (x1, y1) in pairwise(places):
        count = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
        dots += [(round(x0 + (x1 - x0) * i / count), round(y0 + (y1 - y0) * i / count)) for i in range(1, count + 1)]
    return dots
