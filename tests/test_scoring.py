"""From answers to a verdict: scores, migration, the gate, and the doctors' blind sheet."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from medtune.errors import UserError
from medtune.evaluation import items, review, scoring, summary
from medtune.evaluation.items import Item
from medtune.evaluation.predictions import Prediction, Predictions, Side
from medtune.records import Check, Message
from medtune.schemas import EvalConfig

BASELINE, TUNED = Side("baseline", None, "b"), Side("tuned", Path("run"), "t")
GOOD, BAD = "属于1级高血压，请到心内科就诊。", "肯定没事，不用去医院。"
CHECKS = (
    Check(kind="grading", args={"value": "1级高血压", "rivals": ["2级高血压"]}),
    Check(kind="referral"),
    Check(kind="no_absolute"),
)
PRIORITIES = {"accuracy": 0.5, "warmth": 0.35, "vision": 0.15}


def settings(**changes: Any) -> EvalConfig:
    gate = {"accuracy": 0.0, "warmth": 0.0, "vision": 0.0, "superior": 0, "pass_rate": {}} | changes
    values = {"bench": "b", "max_tokens": 9, "batch_size": 2, "max_items": None, "seed": 0, "gate": gate}
    return EvalConfig.model_validate(values)


def item(number: int, dim: str = "accuracy", split: str = "test", **changes: Any) -> Item:
    prompt = (Message(role="user", content=f"血压{number}"),)
    fields = {"id": f"i{number}", "split": split, "dim": dim, "prompt": prompt, "images": (), "reference": GOOD}
    return Item(**{**fields, "checks": CHECKS, "cluster": f"c{number}", **changes})  # type: ignore[arg-type]


def judged(path: Path, answers: list[tuple[str, str]], **changes: Any) -> list[scoring.Judged]:
    """Items with the answers of both models, by way of the predictions file."""
    asked = [item(number, **changes) for number in range(len(answers))]
    store = Predictions(path / "predictions.jsonl")
    for one, pair in zip(asked, answers, strict=True):
        for side, answer in zip((BASELINE, TUNED), pair, strict=True):
            store.add([Prediction(side.key(one), answer, len(answer), "stop", 0.5)])
    store.save(asked, (BASELINE, TUNED))
    return scoring.judge(asked, Predictions(path / "predictions.jsonl"), BASELINE, TUNED)


def test_an_items_score_is_the_mean_of_its_checks(tmp_path: Path) -> None:
    [one] = judged(tmp_path, [(BAD, "属于1级高血压。")])
    assert one.baseline.score == 0
    assert one.tuned.score == pytest.approx(2 / 3)
    assert not one.tuned.right


def test_migration_counts_each_item_once(tmp_path: Path) -> None:
    found = judged(tmp_path, [(BAD, GOOD)] * 3 + [(GOOD, BAD)] * 2 + [(GOOD, GOOD)] + [(BAD, BAD)] * 4)
    assert summary.migration(found) == {"fixed": 3, "regressed": 2, "kept": 1, "still_wrong": 4}


def test_the_figures_are_those_of_the_test_split_alone(tmp_path: Path) -> None:
    test = judged(tmp_path, [(BAD, GOOD)] * 20)
    shown = judged(tmp_path, [(GOOD, BAD)], split="recommended", expect="分级")
    found = summary.evaluate([*test, *shown], PRIORITIES, settings())
    assert found["items"] == found["dimensions"]["accuracy"]["n"] == 20
    assert found["overall"]["delta"] == found["dimensions"]["accuracy"]["delta"] == 1.0
    assert found["checks"]["grading"] == {
        "n": 20, "baseline": 0.0, "tuned": 1.0, "passed": {"baseline": 0, "tuned": 20},
        "unread": {"baseline": 20, "tuned": 0},
    }  # fmt: skip
    [case] = found["recommended"]
    assert (case["expect"], case["tuned"]) == ("分级", BAD)
    assert case["checks"]["referral"] == {"baseline": 1.0, "tuned": 0.0}
    assert found["gate"] == {"passed": True, "failures": [], "unmeasured": []}


def test_the_gate_names_every_reason_it_stays_shut(tmp_path: Path) -> None:
    found = judged(tmp_path, [(GOOD, BAD)] * 20)
    wanted = settings(accuracy=-0.02, superior=1, pass_rate={"referral": 1.0})
    gate = summary.evaluate(found, PRIORITIES, wanted)["gate"]
    assert not gate["passed"]
    assert [failure["kind"] for failure in gate["failures"]] == ["dimension", "superior", "pass_rate"]
    assert (gate["failures"][2]["passed"], gate["failures"][2]["n"]) == (0, 20)


def test_a_small_loss_within_the_allowance_passes_and_chance_alone_does_not_count_as_better(tmp_path: Path) -> None:
    same = judged(tmp_path, [(GOOD, GOOD)] * 10)
    assert summary.evaluate(same, PRIORITIES, settings(accuracy=-0.02))["gate"]["passed"]
    assert not summary.evaluate(same, PRIORITIES, settings(accuracy=-0.02, superior=1))["gate"]["passed"]


def test_an_item_without_checks_is_judged_by_its_likeness_to_the_reference(tmp_path: Path) -> None:
    from medtune.records import Record

    messages = (Message(role="user", content="头痛？"), Message(role="assistant", content="请休息"))
    record = Record(id="r", source="s", messages=messages)
    made = items._item(record, tmp_path, "test")
    assert made.checks == (Check(kind="overlap", args={"reference": "请休息"}),)


def test_stored_answers_are_found_by_what_decides_them_and_by_nothing_else(tmp_path: Path) -> None:
    judged(tmp_path, [(BAD, GOOD)])
    store = Predictions(tmp_path / "predictions.jsonl")
    other_checks = item(0, checks=CHECKS[:1], id="renamed", cluster="z")
    assert store.missing(TUNED, [other_checks]) == []
    assert store.missing(Side("tuned", Path("run"), "retrained"), [item(0)]) == [item(0)]
    assert store.missing(TUNED, [item(1)]) == [item(1)]


def test_a_check_written_wrongly_is_reported_with_its_item_before_anything_is_generated() -> None:
    wrong = item(1, checks=(Check(kind="refferal"), Check(kind="empathy", args={"act": 2})))
    with pytest.raises(UserError, match=r"(?s)2 problems.*i1: refferal: no such check.*i1: empathy\.act"):
        items.check_checks([item(0), wrong])


# --- the doctors' sheet


def sheet(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(path: Path, better: dict[str, str]) -> None:
    rows = sheet(path)
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({**row, "better": better.get(row["id"], "")} for row in rows)


def test_a_filled_sheet_gives_each_model_its_wins_whatever_the_order_shown(tmp_path: Path) -> None:
    found = judged(tmp_path, [(f"{BAD}{n}", f"{GOOD}{n}") for n in range(12)] + [(GOOD, GOOD)])
    path = tmp_path / "review.csv"
    assert review.write(path, found, seed=3) == 12  # equal answers are not shown
    rows = sheet(path)
    firsts = {row["answer_1"].startswith(GOOD) for row in rows}
    assert firsts == {True, False}  # both orders occur
    better = {row["id"]: "1" if row["answer_1"].startswith(GOOD) else "2" for row in rows}
    better["i0"], better["i1"] = "0", ""
    fill(path, better)
    reviews = review.read(path, found, seed=3)
    assert [one.better for one in reviews] == ["tie"] + ["tuned"] * 10
    assert "tuned preferred 10 times, baseline 0 times, 1 ties" in review.summary(reviews)


def test_the_sheet_does_not_tell_whose_answer_is_whose(tmp_path: Path) -> None:
    found = judged(tmp_path, [(f"{BAD}{n}", f"{GOOD}{n}") for n in range(12)])
    swapped = [scoring.Judged(one.item, one.tuned, one.baseline) for one in found]
    for name, these in (("a", found), ("b", swapped)):
        review.write(tmp_path / f"{name}.csv", these, seed=3)
    keys = [[row["key"] for row in sheet(tmp_path / f"{name}.csv")] for name in "ab"]
    assert keys[0] == keys[1]
    assert "tuned" not in (tmp_path / "a.csv").read_text(encoding="utf-8-sig")


def test_a_sheet_of_other_answers_or_with_other_marks_is_refused_line_by_line(tmp_path: Path) -> None:
    found = judged(tmp_path, [(f"{BAD}{n}", f"{GOOD}{n}") for n in range(3)])
    path = tmp_path / "review.csv"
    review.write(path, found, seed=0)
    fill(path, {"i0": "1", "i1": "left"})
    later = judged(tmp_path / "later", [("别的", f"{GOOD}{n}") for n in range(3)])
    with pytest.raises(UserError, match=r"(?s)2 problems.*no longer those of this run"):
        review.read(path, later, seed=0)
    with pytest.raises(UserError, match="'left'"):
        review.read(path, found, seed=0)


def test_an_answer_that_looks_like_a_formula_is_shown_as_text(tmp_path: Path) -> None:
    found = judged(tmp_path, [("=1+1", GOOD)])
    review.write(tmp_path / "r.csv", found, seed=0)
    [row] = sheet(tmp_path / "r.csv")
    assert "'=1+1" in (row["answer_1"], row["answer_2"])


def test_a_wanted_check_that_no_item_has_is_named_as_not_measured(tmp_path: Path) -> None:
    found = summary.evaluate(judged(tmp_path, [(BAD, GOOD)] * 5), PRIORITIES, settings(pass_rate={"emergency": 1.0}))
    assert found["gate"] == {"passed": True, "failures": [], "unmeasured": ["emergency"]}


def test_a_second_check_of_a_kind_is_numbered_within_its_kind(tmp_path: Path) -> None:
    twice = (CHECKS[0], Check(kind="empathy"), CHECKS[0])
    shown = judged(tmp_path, [(GOOD, BAD)], split="recommended", checks=twice)
    [case] = summary.evaluate([*judged(tmp_path, [(BAD, GOOD)]), *shown], PRIORITIES, settings())["recommended"]
    assert list(case["checks"]) == [CHECKS[0].kind, "empathy", f"{CHECKS[0].kind}_2"]
