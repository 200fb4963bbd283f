"""Each raw layout is recognised by its keys and becomes the same kind of draft; nothing is guessed."""

from __future__ import annotations

from typing import Any

import pytest

from medtune.data import layouts
from medtune.data.rejections import Rejected
from medtune.errors import UserError

QUESTION, ANSWER = "血压140/90正常吗？", "达到1级高血压的标准，请改天复查。"
TURNS = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
SHAREGPT = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]
PNG = "data:image/png;base64,AAAA"

# Whoever adds a layout adds its row: this question and this answer, as the layout has them.
ROWS: dict[str, dict[str, Any]] = {
    "record": {"id": "a", "source": "s", "messages": TURNS, "dim": "warmth", "spans": []},
    "messages": {"messages": TURNS},
    "sharegpt": {"conversations": SHAREGPT},
    "llava": {"id": "7", "image": "a.png", "conversations": SHAREGPT},
    "alpaca": {"instruction": QUESTION, "input": "", "output": ANSWER},
    "trl": {"prompt": QUESTION, "completion": ANSWER, "label": True},
}


def convert(name: str, row: Any) -> list[dict[str, Any]]:
    return list(layouts.named(name).convert(row))


def texts(draft: dict[str, Any]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in draft["messages"]]


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}, TURNS[1]]}


def test_every_layout_here_has_an_example_above() -> None:
    assert set(layouts.known()) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_layout_is_recognised_and_keeps_question_and_answer(name: str) -> None:
    assert layouts.detect([ROWS[name]] * 3) is layouts.named(name)
    (draft,) = convert(name, ROWS[name])
    spoken = texts(draft)
    assert [role for role, _ in spoken] == ["user", "assistant"]
    assert spoken[0][1].removeprefix("<image>\n") == QUESTION and spoken[1][1] == ANSWER


def test_five_odd_rows_in_a_hundred_do_not_hide_a_layout_but_six_do() -> None:
    assert layouts.detect([ROWS["alpaca"]] * 95 + [{"x": 1}] * 5).NAME == "alpaca"
    with pytest.raises(UserError):
        layouts.detect([ROWS["alpaca"]] * 94 + [{"x": 1}] * 6)


def test_an_unknown_layout_is_refused_with_its_keys_and_what_the_nearest_needs() -> None:
    with pytest.raises(UserError) as error:
        layouts.detect([{"instruction": QUESTION, "reply": ANSWER}] * 4)
    assert "instruction (100 %), reply (100 %)" in str(error.value)
    assert "alpaca, needs output" in str(error.value)


def test_an_unknown_layout_that_is_near_to_none_lists_them_all() -> None:
    with pytest.raises(UserError) as error:
        layouts.detect([{"q": QUESTION}, ["a", "b"]])
    assert "q (50 %), list (50 %)" in str(error.value) and "trl: prompt + completion" in str(error.value)


def test_a_layout_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(UserError, match="parquet: no such layout; there are auto, "):
        layouts.named("parquet")


def test_openai_image_parts_keep_their_images_in_place() -> None:
    row = user(
        {"type": "text", "text": "先看"},
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "text", "text": "再看"},
        {"type": "image", "image": "b.png"},
    )
    (draft,) = convert("messages", row)
    assert draft["images"] == [PNG, "b.png"]
    assert texts(draft)[0][1] == "先看<image>再看<image>"


def test_parts_without_an_address_take_the_rows_images_in_order() -> None:
    row = user({"type": "image"}, {"type": "image_url", "image_url": "x.png"}, {"type": "image"})
    (draft,) = convert("messages", row | {"images": ["1.png", "2.png"]})
    assert draft["images"] == ["1.png", "x.png", "2.png"]


def test_anthropic_base64_parts_keep_their_image() -> None:
    source = {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}
    (draft,) = convert("messages", user({"type": "image", "source": source}))
    assert draft["images"] == ["data:image/jpeg;base64,AAAA"]


@pytest.mark.parametrize("images", [{"image": "1.png"}, {"images": ["1.png"]}, {"images": [{"path": "1.png"}]}])
def test_images_without_any_marker_stand_before_the_first_question(images: dict[str, Any]) -> None:
    (draft,) = convert("messages", {"messages": TURNS, **images})
    assert draft["images"] == ["1.png"] and texts(draft)[0][1] == f"<image>\n{QUESTION}"


@pytest.mark.parametrize("images", [[], ["1.png", "2.png"]])
def test_markers_and_images_that_do_not_match_are_rejected(images: list[str]) -> None:
    with pytest.raises(Rejected) as fault:
        convert("messages", user({"type": "image"}) | {"images": images})
    assert fault.value.reason == "image_markers"


def test_an_unknown_role_and_an_unknown_part_are_rejected_not_dropped() -> None:
    with pytest.raises(Rejected) as fault:
        convert("messages", {"messages": [{"role": "tool", "content": "x"}, *TURNS]})
    assert fault.value.reason == "role"
    with pytest.raises(Rejected) as fault:
        convert("messages", user({"type": "audio", "audio": "x.wav"}))
    assert fault.value.reason == "fields"


@pytest.mark.parametrize("name", ["human", "user", "USER"])
@pytest.mark.parametrize("other", ["gpt", "bot", "chatgpt", "model", "assistant"])
def test_sharegpt_speakers_have_many_names(name: str, other: str) -> None:
    row = {"conversations": [{"from": name, "value": "问"}, {"from": other, "value": "答"}], "system": "医生"}
    assert texts(convert("sharegpt", row)[0]) == [("system", "医生"), ("user", "问"), ("assistant", "答")]


def test_alpaca_joins_instruction_and_input_and_keeps_system_and_history() -> None:
    row = {"instruction": "问", "input": "补充", "output": "答", "system": "医生", "history": [["早", "好"]]}
    assert texts(convert("alpaca", row)[0]) == [
        ("system", "医生"),
        ("user", "早"),
        ("assistant", "好"),
        ("user", "问\n补充"),
        ("assistant", "答"),
    ]


def test_llava_ids_name_images_and_are_not_taken_for_records() -> None:
    (draft,) = convert("llava", ROWS["llava"])
    assert "id" not in draft and draft["images"] == ["a.png"]


@pytest.mark.parametrize(("mark", "label"), [({"kto_tag": False}, 0), ({"label": True}, 1), ({"label": 0}, 0), ({}, 1)])
@pytest.mark.parametrize("name", ["messages", "sharegpt", "alpaca", "trl"])
def test_kto_labels_are_read(name: str, mark: dict[str, Any], label: int) -> None:
    row = {key: value for key, value in ROWS[name].items() if key != "label"} | mark
    assert convert(name, row)[0]["label"] == label


@pytest.mark.parametrize("label", ["bad", "0", 2, "false", "negative", "内科", [], -1])
@pytest.mark.parametrize("key", ["label", "kto_tag"])
@pytest.mark.parametrize("name", ["messages", "sharegpt", "alpaca", "trl"])
def test_a_label_nobody_can_read_rejects_its_row_and_is_not_taken_for_desirable(
    name: str, key: str, label: Any
) -> None:
    row = {kept: value for kept, value in ROWS[name].items() if kept != "label"} | {key: label}
    with pytest.raises(Rejected) as fault:
        convert(name, row)
    assert fault.value.reason == "fields"


@pytest.mark.parametrize("mark", [{"dim": "warmth"}, {"cluster": "p1"}, {"spans": []}, {"checks": []}, {"pair": "x"}])
def test_one_key_or_one_row_of_the_own_form_is_enough_whatever_else_is_missing(mark: dict[str, Any]) -> None:
    assert layouts.detect([{"messages": TURNS, **mark}] + [{"messages": TURNS}] * 9).NAME == "record"
    (draft,) = convert("record", {"messages": TURNS, **mark})
    assert draft == {"messages": TURNS, **mark}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": 1, "source": "s", "dim": "warmth", "lable": 0, "cluster": "p1"}, "lable (label?)"),
        ({"source": "s", "dim": "warmth", "lable": 0, "cluster": "p1"}, "lable (label?)"),
        ({"id": 1, "source": "s", "lable": 0}, "lable (label?)"),
        ({"source": "s", "span": []}, "span (spans?)"),
        ({"dim": "warmth", "system": "医生"}, "system"),
    ],
)
def test_a_misspelt_key_of_the_own_form_is_named_with_the_one_it_may_mean(row: dict[str, Any], said: str) -> None:
    wrong = {**row, "messages": TURNS}
    with pytest.raises(UserError) as error:
        layouts.detect([wrong] * 20)
    assert f"keys it does not know: {said}. Correct them, or name the layout" in str(error.value)
    with pytest.raises(Rejected) as fault:
        convert("record", wrong)
    assert fault.value.reason == "layout" and said in fault.value.detail


@pytest.mark.parametrize(
    "extra",
    [
        {"prompt_id": "x", "prompt": QUESTION},
        {"id": 1, "source": "web", "score": 0.9, "category": "x", "language": "zh", "metadata": {"a": 1}},
        {"id": 1, "source": "web", "image": "a.png"},
        {"source": "web", "images": ["a.png"]},
        {"title": "x", "labels": ["x"], "cluster_id": 3, "department": "内科"},
    ],
)
def test_metadata_of_public_messages_make_no_record_of_them(extra: dict[str, Any]) -> None:
    assert layouts.detect([{"messages": TURNS, **extra}] * 9).NAME == "messages"
    assert [role for role, _ in texts(convert("messages", {"messages": TURNS, **extra})[0])] == ["user", "assistant"]


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"record"}))
def test_a_system_text_beside_the_conversation_is_its_first_turn(name: str) -> None:
    (draft,) = convert(name, ROWS[name] | {"system": "医生"})
    assert [role for role, _ in texts(draft)] == ["system", "user", "assistant"] and texts(draft)[0][1] == "医生"


@pytest.mark.parametrize(
    "odd", [{"instruction": ["问"]}, {"instruction": 5}, {"input": ["x"]}, {"input": {"a": 1}}, {"history": 5},
            {"history": {"a": 1}}]
)  # fmt: skip
def test_alpaca_rows_of_other_types_are_rejected(odd: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as fault:
        convert("alpaca", ROWS["alpaca"] | odd)
    assert fault.value.reason == "fields"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("messages", {"messages": TURNS[:1], "chosen": TURNS[1], "rejected": {"role": "assistant", "content": "没事"}}),
        ("sharegpt", {"conversations": SHAREGPT[:1],
                      "chosen": SHAREGPT[1], "rejected": {"from": "bot", "value": "没事"}}),
        ("alpaca", {"instruction": QUESTION, "chosen": ANSWER, "rejected": "没事"}),
        ("trl", {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [{"role": "assistant", "content": "没事"}]}),
    ],
)  # fmt: skip
def test_chosen_and_rejected_become_a_pair(name: str, row: dict[str, Any]) -> None:
    good, bad = convert(name, row)
    assert (good["label"], bad["label"]) == (1, 0) and good["pair"] == bad["pair"]
    assert texts(good) == [("user", QUESTION), ("assistant", ANSWER)]
    assert texts(bad) == [("user", QUESTION), ("assistant", "没事")]


def test_two_different_pairs_have_different_names() -> None:
    row = {"instruction": QUESTION, "chosen": ANSWER, "rejected": "没事"}
    assert convert("alpaca", row)[0]["pair"] != convert("alpaca", row | {"rejected": "不要紧"})[0]["pair"]
