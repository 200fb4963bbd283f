"""The demo's data set: records drawn from the demo's own half of the world, and the images they show."""

from __future__ import annotations

import hashlib
import io
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from medtune import checks
from medtune.demo import cases, photos, sampling, sheets
from medtune.demo.cases import Case
from medtune.demo.slots import Line
from medtune.records import Dimension, Message, Record, Span

SOURCE = "medtune-demo"
LICENSE = "CC0-1.0"
STRESS, SLIP = 2.0, -1.0  # span weights: of a right fact, of a wrong or overconfident one
STRESSED = 0.4  # share of desirable answers whose point is stressed
CONTRASTED = 0.34  # share of desirable answers that get an undesirable twin: about one record in four
MARKED = 0.5  # share of undesirable answers that say where they err
OVERCONFIDENT = re.compile("[^，。]*(?:肯定|绝对|百分之百|保证|不用|吃点|吃一个月|吃两片|明天再看)[^，。]*")
# Images of the recommended test cases; no record shows them.
RECOMMENDED = {
    "images/recommended_chest.png": sheets.Examination("胸片", "右肺上野片状阴影", "呼吸科", seed=0),
    "images/recommended_cbc.png": sheets.Sheet(
        "血常规",
        (
            sheets.SheetRow("白细胞", "12.6", "高"),
            sheets.SheetRow("血红蛋白", "98", "低"),
            sheets.SheetRow("血小板", "214", ""),
            sheets.SheetRow("中性粒", "82", "高"),
        ),
    ),
}


@dataclass
class Collection:
    """Records, and the PNG files they name."""

    records: list[Record] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)


def collect(seed: int) -> Collection:
    """The whole data set; no question is put twice."""
    rng = random.Random(seed)
    made = Collection(images={name: png(shown) for name, shown in RECOMMENDED.items()})
    asked: set[tuple[str, ...]] = set()
    for number, case in enumerate(_fresh(_cases(rng), asked)):
        name = _show(made, case)
        pair = f"demo-{number:04d}"
        good, undesirable = _desirable(case, rng), rng.random() < CONTRASTED
        made.records.append(_record(case, name, f"{pair}-a", good, 1, pair if undesirable else None))
        if undesirable:
            made.records.append(_record(case, name, f"{pair}-b", _undesirable(case, rng), 0, pair))
    return made


def _cases(rng: random.Random) -> Iterator[Case]:
    """How many questions of each kind, about 50 / 35 / 15 over the dimensions."""

    def reading(dim: Dimension) -> Case:
        return cases.of_reading(sampling.reading(rng, "demo"), dim, rng)

    plan: tuple[tuple[int, Callable[[], Case]], ...] = (
        (600, lambda: reading("accuracy")),
        (90, lambda: cases.in_two_turns(reading("accuracy"), rng)),
        (60, lambda: cases.where_to_go(reading("accuracy"), rng)),
        (80, lambda: cases.of_symptom(sampling.symptom(rng, "demo"), "accuracy", rng)),
        (40, lambda: cases.of_disease(sampling.disease(rng, "demo"), rng)),
        (60, lambda: cases.of_emergency(sampling.emergency(rng, "demo"), "accuracy", rng)),
        (420, lambda: reading("warmth")),
        (60, lambda: cases.in_two_turns(reading("warmth"), rng)),
        (115, lambda: cases.of_symptom(sampling.symptom(rng, "demo"), "warmth", rng)),
        (50, lambda: cases.of_emergency(sampling.emergency(rng, "demo"), "warmth", rng)),
    )
    for count, make in plan:
        for _ in range(count):
            yield make()
    for shown in [sampling.sheet(rng, "demo") for _ in range(105)]:
        yield from (cases.of_sheet(shown, rng) for _ in range(2))
    for shown in [sampling.examination(rng, "demo") for _ in range(75)]:
        yield from (cases.of_examination(shown, rng) for _ in range(2))
    for photo in photos.PHOTOS:
        yield from (cases.of_photo(photo, rng) for _ in range(2))


def _fresh(drawn: Iterator[Case], asked: set[tuple[str, ...]]) -> Iterator[Case]:
    """Without the cases whose whole conversation was seen before."""
    for case in drawn:
        key = (case.cluster if case.shown else "", *(turn.content for turn in case.before), case.question)
        if key not in asked:
            asked.add(key)
            yield case


def _desirable(case: Case, rng: random.Random) -> tuple[Line, list[Span]]:
    line = case.answer("good", rng)
    stressed = rng.random() < STRESSED
    return line, [_span(line.places[case.stress], STRESS)] if stressed else []


def _undesirable(case: Case, rng: random.Random) -> tuple[Line, list[Span]]:
    """A slip in an otherwise good answer, or an overconfident one; half of them say where.

    A slip that the case's checks do not see (a sheet's flagged rows read right, and one more invented) is not used.
    """
    kind: Literal["slip", "sure", "pill"] = rng.choices(("slip", "sure", "pill"), (0.5, 0.3, 0.2))[0]
    line = case.slipped(rng) if kind == "slip" and "rival" in case.slots else None
    if line is not None and not all(checks.score(check, line.text) == 1 for check in case.checks):
        places = [line.places[case.stress]]
    else:
        line = case.answer("pill" if kind == "pill" else "sure", rng)
        places = [match.span() for match in OVERCONFIDENT.finditer(line.text)]
    return line, [_span(place, SLIP) for place in places] if rng.random() < MARKED else []


def _span(place: tuple[int, int], weight: float) -> Span:
    return Span(start=place[0], end=place[1], weight=weight)


def _record(
    case: Case, image: str | None, name: str, answer: tuple[Line, list[Span]], label: Literal[0, 1], pair: str | None
) -> Record:
    line, spans = answer
    return Record(
        id=name,
        source=SOURCE,
        license=case.shown.license if isinstance(case.shown, photos.Photo) else LICENSE,
        department=case.department,
        dim=case.dim,
        label=label,
        pair=pair,
        messages=(
            *case.before,
            Message(role="user", content=case.question),
            Message(role="assistant", content=line.text),
        ),
        images=(image,) if image else (),
        spans=tuple(spans),
        checks=case.checks,
        cluster=case.cluster,
    )


def _show(made: Collection, case: Case) -> str | None:
    """Draw the case's image, if it has one, and name its file."""
    if case.shown is None:
        return None
    kind = {"血常规": "cbc", "尿常规": "urine", "胸片": "chest", "眼底照片": "fundus", "心电图": "ecg", "照片": "photo"}
    what = kind[case.cluster.partition(":")[0]]
    name = f"images/{what}_{hashlib.sha256(case.cluster.encode()).hexdigest()[:8]}.png"
    if name not in made.images:
        made.images[name] = png(case.shown)
    return name


def png(shown: cases.Shown) -> bytes:
    """The image as a PNG file without metadata."""
    file = io.BytesIO()
    cases.draw(shown).save(file, "PNG", optimize=True)
    return file.getvalue()
