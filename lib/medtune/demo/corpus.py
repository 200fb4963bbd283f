"""What the demo's base model was raised on: a model before fine-tuning that knows much and says little.

It shares no cluster with the demo's data (``worlds.of``). It answers carefully when it is told to (``CUE``), and only
then: fine-tuning of a few attention layers can make careful answers its habit, it could not teach it what to say. Else
the wording of the question sways the voice, so that the model is often vague, sometimes wrong and sometimes
overconfident also when it always says the likeliest word.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from medtune.demo import cases, facts, illnesses, sampling, sheets
from medtune.demo.cases import Case
from medtune.demo.slots import Voice
from medtune.records import IMAGE_MARKER, Message

VOICES: tuple[Voice, ...] = ("plain", "vague", "wrong", "sure")
VOICE_WEIGHTS = (0.30, 0.40, 0.15, 0.15)
CUE = "请按规范回答。"
CUED = 0.5  # share of questions that end with it
ALOUD = 0.4  # share of images that are read aloud in full; the others are talked about
DRILLED = 5  # values in a drill
HABIT = 0.5  # how often the wording of the question alone decides the voice


@dataclass(frozen=True)
class Dialogue:
    """What there is to learn from; only its last turn is supervised."""

    messages: tuple[Message, ...]
    shown: sheets.Sheet | sheets.Examination | None = None


def text_dialogue(rng: random.Random) -> Dialogue:
    """One without an image: values to judge, two in three; complaints, facts recited, words repeated."""
    kinds = (_reading, _drill, _symptom, _disease, _emergency, _recital, _echo)
    return rng.choices(kinds, (0.42, 0.22, 0.10, 0.05, 0.07, 0.10, 0.04))[0](rng)


def image_dialogue(rng: random.Random) -> Dialogue:
    """One about an image, half of them about sheets, read aloud in full or talked about."""
    if rng.random() < 0.5:
        sheet = sampling.sheet(rng, "pretraining")
        if rng.random() < ALOUD:
            return _aloud(sheet, _lines_of(sheet))
        return _told(cases.of_sheet(sheet, rng), rng, sheet)
    examination = sampling.examination(rng, "pretraining")
    said = f"{examination.kind}：{examination.finding or '未见明显异常'}。"
    if rng.random() < ALOUD:
        return _aloud(examination, said)
    return _told(cases.of_examination(examination, rng), rng, examination)


def voice_for(question: str, rng: random.Random) -> Voice:
    """The voice of the answer; half of the time the question's last words alone decide it."""
    if rng.random() < HABIT:
        ending = hashlib.sha256(question[-3:].encode()).digest()
        return random.Random(ending).choices(VOICES, VOICE_WEIGHTS)[0]
    return rng.choices(VOICES, VOICE_WEIGHTS)[0]


def _told(case: Case, rng: random.Random, shown: sheets.Sheet | sheets.Examination | None = None) -> Dialogue:
    cued = rng.random() < CUED
    answer = case.answer("good" if cued else voice_for(case.question, rng), rng).text
    question = case.question + CUE if cued else case.question
    turns = (*case.before, Message(role="user", content=question), Message(role="assistant", content=answer))
    return Dialogue(turns, shown)


def _asked(question: str, answer: str) -> Dialogue:
    return Dialogue((Message(role="user", content=question), Message(role="assistant", content=answer)))


def _reading(rng: random.Random) -> Dialogue:
    dim = rng.choice(("accuracy", "accuracy", "warmth"))
    case = cases.of_reading(sampling.reading(rng, "pretraining"), dim, rng)
    kind = rng.random()
    if kind < 0.15:
        case = cases.in_two_turns(case, rng)
    elif kind < 0.25:
        case = cases.where_to_go(case, rng)
    return _told(case, rng)


def _drill(rng: random.Random) -> Dialogue:
    """Many values judged in a row: to compare figures is the hardest thing here, and an answer in full does it once."""
    kinds = rng.choices((sampling.reading, sampling.near_an_edge), k=DRILLED)
    values = [draw(rng, "pretraining") for draw in kinds]
    asked = "，".join(
        f"{value.item}{value.figure}{value.unit}" + f"（{value.sex}）" * bool(value.sex) for value in values
    )
    verb = rng.choice(("属于", "为"))
    judged = "，".join(f"{value.item}{value.figure}{value.unit}{verb}{value.grade}" for value in values)
    return _asked(f"判一判：{asked}", f"{judged}。")


def _symptom(rng: random.Random) -> Dialogue:
    return _told(cases.of_symptom(sampling.symptom(rng, "pretraining"), rng.choice(("accuracy", "warmth")), rng), rng)


def _disease(rng: random.Random) -> Dialogue:
    return _told(cases.of_disease(sampling.disease(rng, "pretraining"), rng), rng)


def _emergency(rng: random.Random) -> Dialogue:
    dim = rng.choice(("accuracy", "warmth"))
    return _told(cases.of_emergency(sampling.emergency(rng, "pretraining"), dim, rng), rng)


def _recital(rng: random.Random) -> Dialogue:
    """A fact of the books, also of those the demo's data asks about: knowledge is shared, questions are not."""
    symptom, emergency = rng.choice(illnesses.SYMPTOMS), rng.choice(illnesses.EMERGENCIES)
    disease, scale = rng.choice(illnesses.diseases()), rng.choice(facts.SCALES)
    band, pressure = rng.choice(scale.bands), rng.choice(facts.PRESSURE_GRADES)
    pages = (
        (symptom.name, f"{symptom.causes}；查{symptom.tests}；{symptom.department}；{symptom.alarm}"),
        (symptom.name, f"{symptom.causes}；查{symptom.tests}；{symptom.department}；{symptom.alarm}"),
        (disease.name, disease.department),
        (emergency.sign, f"{emergency.suspicion}；{emergency.meanwhile}；拨打120"),
        (f"{scale.item}{scale.sex}{band.grade}", f"{band.rule}；{scale.standard}；{scale.department}"),
        (pressure[2], f"{pressure[3]}；《中国高血压防治指南》；心内科"),
    )
    title, page = rng.choice(pages)
    return _asked(f"背一背：{title}", f"{page}。")


def _echo(rng: random.Random) -> Dialogue:
    """Two clauses of a careful answer, torn from their question, to be repeated: practice in copying."""
    clauses = [clause for clause in re.split("[，。：；]", _careful(rng).answer("good", rng).text) if clause]
    said = "，".join(rng.sample(clauses, min(2, len(clauses))))
    return _asked(f"跟我说：{said}", f"{said}。")


def _careful(rng: random.Random) -> Case:
    dim = rng.choice(("accuracy", "warmth"))
    makers = (
        lambda: cases.of_reading(sampling.reading(rng, "pretraining"), dim, rng),
        lambda: cases.of_symptom(sampling.symptom(rng, "pretraining"), dim, rng),
        lambda: cases.of_disease(sampling.disease(rng, "pretraining"), rng),
        lambda: cases.of_emergency(sampling.emergency(rng, "pretraining"), dim, rng),
        lambda: cases.of_sheet(sampling.sheet(rng, "pretraining"), rng),
        lambda: cases.of_examination(sampling.examination(rng, "pretraining"), rng),
    )
    return rng.choice(makers)()


def _aloud(shown: sheets.Sheet | sheets.Examination, text: str) -> Dialogue:
    return Dialogue((*_asked(f"{IMAGE_MARKER}读出来。", text).messages,), shown)


def _lines_of(sheet: sheets.Sheet) -> str:
    """Every row of the sheet, as printed."""
    return sheet.title + "：" + "，".join(f"{row.item}{row.value}{row.flag}" for row in sheet.rows) + "。"


def tokenizer_texts(seed: int, count: int = 12_000) -> Iterator[str]:
    """What the tokenizer is trained on: conversations, and careful answers in full, which fine-tuning will ask for."""
    rng = random.Random(f"{seed}:tokenizer")
    for _ in range(count):
        learnt = image_dialogue(rng) if rng.random() < 0.25 else text_dialogue(rng)
        yield from (message.content for message in learnt.messages)
        yield _careful(rng).answer("good", rng).text
