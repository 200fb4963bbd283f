"""Repeats: alike in wording is a repeat only where images, figures and polarity are the same."""

from __future__ import annotations

import random

import pytest

from medtune.data.dedup import Repeats, facts, plain
from medtune.data.rejections import Rejected
from medtune.records import Message, Record

LONG = "每天早晚各量一次血压并记录下来，复诊时带给医生看；按时服药，清淡饮食，规律作息，若胸痛或呼吸困难请立即就医。"


def record(name: str, answer: str, label: int = 1, images: tuple[str, ...] = ()) -> Record:
    turns = (Message(role="user", content="血压150/95怎么办？"), Message(role="assistant", content=answer))
    made = Record.model_validate({"id": name, "source": "s", "label": label, "messages": turns, "images": images})
    return made.model_copy(update={"hash": made.content_hash(list(images))})


def reasons(mode: str, *records: Record) -> list[str]:
    repeats, found = Repeats(mode), []  # pyright: ignore[reportArgumentType]
    for one in records:
        try:
            repeats.check(one)
            found.append("")
        except Rejected as fault:
            found.append(fault.reason)
    return found


def test_the_same_conversation_again_is_a_repeat_unless_dedup_is_off() -> None:
    assert reasons("exact", record("a", LONG), record("b", LONG)) == ["", "duplicate"]
    assert reasons("off", record("a", LONG), record("b", LONG)) == ["", ""]


def test_one_conversation_cannot_be_both_desirable_and_undesirable() -> None:
    assert reasons("exact", record("a", LONG), record("b", LONG, label=0)) == ["", "contradiction"]


@pytest.mark.parametrize("changed", [LONG.replace("，", ","), LONG + "谢谢。", LONG.replace("立即就医", "立刻就医")])
def test_almost_the_same_wording_is_a_near_repeat_only_when_asked_for(changed: str) -> None:
    assert reasons("near", record("a", LONG), record("b", changed)) == ["", "near_duplicate"]
    assert reasons("exact", record("a", LONG), record("b", changed)) == ["", ""]


def test_another_figure_another_finding_another_label_or_image_is_another_case() -> None:
    text = LONG + "血压150/95，左肺有阴影。"
    others = [
        record("b", text.replace("150", "151")),
        record("c", text.replace("有阴影", "无阴影")),
        record("d", text.replace("左", "右")),
        record("e", text + "好", label=0),
        record("f", text + "好", images=("images/a.png",)),
    ]
    assert reasons("near", record("a", text), *others) == [""] * 6


def test_different_texts_are_never_near_and_all_near_ones_are_found() -> None:
    draw = random.Random(0)
    words = [chr(draw.randint(0x4E8C, 0x9F00)) for _ in range(2000)]
    texts = ["".join(draw.choices(words, k=120)) for _ in range(300)]
    repeats = ["好" + text + "啊" for text in texts]
    found = reasons("near", *(record(f"{i}", text) for i, text in enumerate(texts + repeats)))
    assert found == [""] * 300 + ["near_duplicate"] * 300


def test_facts_are_figures_and_words_of_polarity() -> None:
    assert facts(plain("ＷＢＣ ３．８，左肺无异常；三天后复查3.80")) == sorted({"3.8", "左", "无", "三", "3.80"})
