"""Templates whose slots are facts, so that the place of every fact in a filled one is known.

Five voices answer. ``good`` is what fine-tuning teaches: figure, grade, standard, a calm next step. The others are
the model before it: ``plain`` is right but bare, ``vague`` says nothing, ``wrong`` errs, ``sure`` is overconfident.
A sixth, ``pill``, prescribes unseen: an undesirable answer of the data, not of that model.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Literal

Voice = Literal["good", "plain", "vague", "wrong", "sure", "pill"]
Slots = Mapping[str, str]


@dataclass(frozen=True)
class Line:
    """A filled template: its text and the character range of each slot (its first use)."""

    text: str
    places: Mapping[str, tuple[int, int]]


def fill(template: str, slots: Slots) -> Line:
    """Put the slots' values into the template and remember where each went."""
    text, places = "", {}
    for literal, name, _, _ in Formatter().parse(template):
        text += literal
        if name is not None:
            places.setdefault(name, (len(text), len(text) + len(slots[name])))
            text += slots[name]
    return Line(text, places)


def lines(block: str) -> tuple[str, ...]:
    """One entry a line."""
    return tuple(line.strip() for line in block.strip().splitlines())


def pick(templates: tuple[str, ...], rng: random.Random, slots: Slots) -> Line:
    """One of the templates, filled."""
    return fill(rng.choice(templates), slots)
