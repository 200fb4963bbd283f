"""Draws facts of one world (``worlds.World``), each kind and grade often enough to be learnt."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol, TypeVar

from medtune.demo import facts, illnesses, sheets, worlds
from medtune.demo.worlds import World


class Clustered(Protocol):
    """Whatever knows its cluster."""

    @property
    def cluster(self) -> str:
        """Where its questions belong."""
        ...


Fact = TypeVar("Fact", bound=Clustered)


def _within(world: World, draw: Callable[[], Fact]) -> Fact:
    """Draw until the fact belongs to this world."""
    while worlds.of((fact := draw()).cluster) != world:
        pass
    return fact


def reading(rng: random.Random, world: World) -> facts.Reading:
    """A measured value: what people measure at home more often than the rest, the grades of an item equally often."""
    draws = (
        lambda: _pressure(rng),
        lambda: _graded(rng, facts.TEMPERATURE),
        lambda: _graded(rng, rng.choice(facts.SCALES)),
    )
    return _within(world, lambda: rng.choices(draws, (0.25, 0.10, 0.65))[0]())


def near_an_edge(rng: random.Random, world: World) -> facts.Reading:
    """A value a few units in the last place from where its grade begins or ends: the hardest to judge."""

    def draw() -> facts.Reading:
        scale = rng.choice(facts.SCALES)
        edge = rng.choice(scale.bands[:-1]).below
        return scale.read(edge + rng.randint(-4, 4) * 10.0**-scale.digits)

    return _within(world, draw)


def _pressure(rng: random.Random) -> facts.Reading:
    """A pressure near the band of a random grade; the diastolic may disagree with it by one band."""
    band = rng.randrange(5)
    systolic = rng.randrange(*((96, 120), (120, 140), (140, 160), (160, 180), (180, 206))[band])
    near = min(4, max(0, band + rng.choice((-1, 0, 0, 0, 1))))
    diastolic = rng.randrange(*((58, 80), (80, 90), (90, 100), (100, 110), (110, 122))[near])
    return facts.blood_pressure(systolic, diastolic)


def _graded(rng: random.Random, scale: facts.Scale) -> facts.Reading:
    edges = (scale.low, *(min(band.below, scale.high) for band in scale.bands))
    band = rng.randrange(len(scale.bands))
    return scale.read(rng.uniform(edges[band], edges[band + 1]))


def symptom(rng: random.Random, world: World) -> illnesses.Symptom:
    """A complaint."""
    return _within(world, lambda: rng.choice(illnesses.SYMPTOMS))


def disease(rng: random.Random, world: World) -> illnesses.Disease:
    """A disease."""
    return _within(world, lambda: rng.choice(illnesses.diseases()))


def emergency(rng: random.Random, world: World) -> illnesses.Emergency:
    """A sign that cannot wait."""
    return _within(world, lambda: rng.choice(illnesses.EMERGENCIES))


def sheet(rng: random.Random, world: World) -> sheets.Sheet:
    """A laboratory sheet, two in three a blood count."""
    draw = sheets.draw_blood_sheet if rng.random() < 0.67 else sheets.draw_urine_sheet
    return _within(world, lambda: draw(rng))


def examination(rng: random.Random, world: World) -> sheets.Examination:
    """A chest film, a fundus or an ECG strip."""
    return _within(world, lambda: sheets.draw_examination(rng))
