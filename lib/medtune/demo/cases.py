"""One question of the demo's world: who asks what about which fact, and what a good answer must hold."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from PIL.Image import Image

from medtune.demo import facts, illness_phrases, illnesses, photos, phrases, sheets
from medtune.demo.slots import Line, Voice, pick
from medtune.records import IMAGE_MARKER, Check, Dimension, Message

Shown = sheets.Sheet | sheets.Examination | photos.Photo
CALM = (Check(kind="referral"), Check(kind="no_absolute"))


@dataclass(frozen=True)
class Case:
    """A question and the facts its answers are made of.

    `slots` holds a value for each slot of the templates in `voices`; `stress` names the slot that is the point of a
    right answer, and the slot `rival`, where there is one, holds a wrong value for it.
    """

    dim: Dimension
    cluster: str
    department: str
    question: str
    slots: Mapping[str, str]
    voices: Mapping[Voice, tuple[str, ...]]
    checks: tuple[Check, ...]
    stress: str
    shown: Shown | None = None
    before: tuple[Message, ...] = ()  # earlier turns of the conversation

    def answer(self, voice: Voice, rng: random.Random) -> Line:
        """An answer in this voice."""
        return pick(self.voices[voice], rng, self.slots)

    def slipped(self, rng: random.Random) -> Line:
        """A good answer with one fact wrong: the hardest kind of error to notice."""
        return pick(self.voices["good"], rng, {**self.slots, self.stress: self.slots["rival"]})


def of_reading(reading: facts.Reading, dim: Dimension, rng: random.Random) -> Case:
    """How is this value to be judged?"""
    slots = {
        "item": reading.item,
        "figure": reading.figure,
        "unit": reading.unit,
        "grade": reading.grade,
        "rule": reading.rule,
        "standard": reading.standard,
        "department": reading.department,
        "rival": rng.choice(reading.rivals),
        "advice": rng.choice(phrases.ADVICE[reading.level]),
        "outlook": phrases.OUTLOOK[reading.level],
        "referral": phrases.REFERRAL[reading.level].format(department=reading.department),
        "empathy": rng.choice(phrases.EMPATHY),
        "who": rng.choice(phrases.WHO_OF[reading.sex]),
        "whose": f"（{reading.sex}）" if reading.sex else "",
    }
    slots["whom"] = slots["who"].rstrip("，") or "我"
    about = phrases.ASK_ABOUT[dim].get(reading.item, ())
    asks = about if about and rng.random() < 0.5 else phrases.ASK_READING[dim]
    grading = Check(kind="grading", args={"value": reading.grade, "rivals": list(reading.rivals)})
    cited = _says(reading.standard.strip("《》"))
    first = (Check(kind="empathy"),) if dim == "warmth" else (_figure(reading), cited)
    return Case(
        dim, reading.cluster, reading.department, pick(asks, rng, slots).text, slots,
        phrases.READING[dim], (*first, grading, *CALM), "grade",
    )  # fmt: skip


def in_two_turns(case: Case, rng: random.Random) -> Case:
    """The same reading, asked for before it is told: the figure stands in the second turn alone."""
    opening = pick(phrases.OPENINGS, rng, case.slots).text
    before = (
        Message(role="user", content=opening),
        Message(role="assistant", content=pick(phrases.INVITATIONS, rng, case.slots).text),
    )
    return replace(case, before=before, question=pick(phrases.TELLINGS, rng, case.slots).text)


def where_to_go(case: Case, rng: random.Random) -> Case:
    """The question after a good answer: which department it was."""
    before = (
        *case.before,
        Message(role="user", content=case.question),
        Message(role="assistant", content=case.answer("good", rng).text),
    )
    others = sorted({symptom.department for symptom in illnesses.SYMPTOMS} - {case.department})
    return replace(
        case, before=before, question=rng.choice(phrases.ASK_WHERE), voices=phrases.WHERE, stress="department",
        slots={**case.slots, "rival": rng.choice(others)}, checks=(_says(case.department), *CALM),
    )  # fmt: skip


def of_symptom(symptom: illnesses.Symptom, dim: Dimension, rng: random.Random) -> Case:
    """What may this complaint be, and what is to be done?"""
    slots = {
        **vars(symptom),
        "rival": rng.choice(("癌症", "中毒", "骨折", "遗传病")),
        "empathy": rng.choice(phrases.EMPATHY),
        "who": rng.choice(phrases.WHO),
    }
    causes = Check(kind="contains", args={"any": symptom.causes.split("、")[:2]})
    tests = Check(kind="contains", args={"any": symptom.tests.split("和")})
    first = (Check(kind="empathy"), causes) if dim == "warmth" else (causes, tests)
    return Case(
        dim, symptom.cluster, symptom.department, pick(illness_phrases.ASK_SYMPTOM[dim], rng, slots).text, slots,
        illness_phrases.SYMPTOM[dim], (*first, *CALM), "causes",
    )  # fmt: skip


def of_disease(disease: illnesses.Disease, rng: random.Random) -> Case:
    """Which department treats this disease?"""
    others = sorted({other.department for other in illnesses.diseases()} - {disease.department})
    slots = {**vars(disease), "rival": rng.choice(others), "who": rng.choice(phrases.WHO)}
    place = Check(kind="contains", args={"any": [disease.department]})
    return Case(
        "accuracy", disease.cluster, disease.department, pick(illness_phrases.ASK_DISEASE, rng, slots).text, slots,
        illness_phrases.DISEASE["accuracy"], (place, *CALM), "department",
    )  # fmt: skip


def of_emergency(emergency: illnesses.Emergency, dim: Dimension, rng: random.Random) -> Case:
    """A sign that cannot wait."""
    slots = {**vars(emergency), "who": rng.choice(phrases.WHO)}
    checks = (Check(kind="emergency"), Check(kind="no_absolute"), Check(kind="no_prescription"))
    return Case(
        dim, emergency.cluster, "急诊科", pick(illness_phrases.ASK_EMERGENCY, rng, slots).text, slots,
        illness_phrases.EMERGENCY[dim], checks, "suspicion",
    )  # fmt: skip


def of_sheet(sheet: sheets.Sheet, rng: random.Random) -> Case:
    """A laboratory sheet to be read."""
    department = {"血常规": "血液科", "尿常规": "肾内科"}[sheet.title]
    slots = {
        "kind": f"{sheet.title}化验单",
        "finding": _rows(sheet),
        "rival": _rows(_misread(sheet, rng)),
        "department": department,
    }
    fields = {row.item: {"value": row.value, "flag": "低" if row.flag == "低" else "高"} for row in sheet.flagged}
    nothing = Check(kind="absent", args={"any": ["偏低", "偏高", "阳性"]})
    read = Check(kind="fields", args={"fields": fields}) if fields else nothing
    return Case(
        "vision", sheet.cluster, department, _look(rng), slots, phrases.IMAGE["vision"],
        (_says(sheet.title), read, *CALM), "finding", shown=sheet,
    )  # fmt: skip


def of_examination(examination: sheets.Examination, rng: random.Random) -> Case:
    """An examination without figures to be described."""
    other = rng.choice([f for f in sheets.FINDINGS[examination.kind] if f != examination.finding])
    slots = {
        "kind": examination.kind,
        "finding": _seen(examination.kind, examination.finding),
        "rival": _seen(examination.kind, other),
        "department": examination.department,
    }
    return Case(
        "vision", examination.cluster, examination.department, _look(rng), slots, phrases.IMAGE["vision"],
        (_says(examination.kind), _says(examination.finding or "未见明显异常"), *CALM), "finding", shown=examination,
    )  # fmt: skip


def of_photo(photo: photos.Photo, rng: random.Random) -> Case:
    """A real image: what kind of examination it is."""
    other = rng.choice(sorted({other.finding for other in photos.PHOTOS} - {photo.finding}))
    slots = {"kind": photo.kind, "finding": photo.finding, "rival": other, "department": photo.department}
    return Case(
        "vision", photo.cluster, photo.department, _look(rng), slots, phrases.IMAGE["vision"],
        (_says(photo.kind), *CALM), "kind", shown=photo,
    )  # fmt: skip


def draw(shown: Shown) -> Image:
    """The pixels of what is shown."""
    return photos.load(shown) if isinstance(shown, photos.Photo) else sheets.render(shown)


def _figure(reading: facts.Reading) -> Check:
    return Check(kind="figure", args={"value": reading.figure})


def _look(rng: random.Random) -> str:
    return IMAGE_MARKER + rng.choice(phrases.ASK_IMAGE)


def _says(text: str) -> Check:
    return Check(kind="contains", args={"any": [text]})


def _seen(kind: str, finding: str) -> str:
    if not finding:
        return "未见明显异常"
    return f"提示{finding}" if kind == "心电图" else f"可见{finding}"


def _rows(sheet: sheets.Sheet) -> str:
    """The flagged rows as a sentence."""
    if not sheet.flagged:
        return "各项未见异常"
    verb = "偏" if sheet.title == "血常规" else ""
    read = "，".join(f"{row.item}{row.value}{verb}{row.flag}" for row in sheet.flagged)
    return read if len(sheet.flagged) == len(sheet.rows) else read + "，其余未见异常"


def _misread(sheet: sheets.Sheet, rng: random.Random) -> sheets.Sheet:
    """Another sheet of the same kind, so that a wrong reading looks like a reading."""
    draw = sheets.draw_blood_sheet if sheet.title == "血常规" else sheets.draw_urine_sheet
    while (other := draw(rng)).flagged == sheet.flagged:
        pass
    return other
