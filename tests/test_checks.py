"""What a check is: its file, its names, its examples, its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medtune import checks
from medtune.records import Check, Record
from tests.answers import score


def test_every_kind_is_a_file_with_a_docstring_and_says_nothing_right_of_an_empty_answer() -> None:
    assert set(checks.kinds()) >= {
        "absent", "contains", "emergency", "empathy", "fields", "figure", "grading", "no_absolute", "no_prescription",
        "referral",
    }  # fmt: skip
    for kind, check in checks.kinds().items():
        assert check.__doc__, kind
    assert score("no_absolute", "  \n") == 0


# Whoever adds a kind adds its line: its arguments, an answer that satisfies it fully, one that does not.
EXAMPLES: dict[str, tuple[dict[str, Any], str, str]] = {
    "absent": ({"any": ["抗生素"]}, "多喝水，好好休息。", "先吃点抗生素。"),
    "choice": ({"value": "B"}, "答案是B。", "答案是C。"),
    "closed": ({"value": True}, "是的，有阴影。", "没有阴影。"),
    "contains": ({"any": ["贫血"]}, "可能是贫血。", "可能是着凉。"),
    "disclaimer": ({}, "仅供参考。请就诊。", "仅供参考。请就诊。仅供参考。"),
    "emergency": ({}, "请立即拨打120。", "先观察一下。"),
    "empathy": ({}, "我理解您的担心。", "请到心内科就诊。"),
    "fields": ({"fields": {"白细胞": {"value": "12.6", "flag": "高"}}}, "白细胞12.6偏高。", "白细胞12.6偏低。"),
    "figure": ({"value": "140/90"}, "血压140/90。", "血压130/90。"),
    "grading": ({"value": "1级高血压", "rivals": ["2级高血压"]}, "属于一级高血压。", "属于二级高血压。"),
    "no_absolute": ({}, "可能是肺炎，需要检查。", "这肯定是肺炎。"),
    "no_prescription": ({}, "用量请问医生。", "布洛芬400mg，每日3次。"),
    "no_stale_range": ({}, "白细胞参考范围3.5-9.5。", "白细胞参考范围4-10。"),
    "overlap": ({"reference": "血压140"}, "血压140", "血压141"),
    "referral": ({}, "请到心内科就诊。", "多喝水。"),
}


def test_every_kind_has_its_example() -> None:
    assert set(EXAMPLES) == set(checks.kinds())


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_kind_tells_its_two_examples_apart(kind: str) -> None:
    args, good, bad = EXAMPLES[kind]
    assert checks.problems(Check(kind=kind, args=args)) == []
    assert score(kind, good, **args) == 1 > score(kind, bad, **args)


def test_every_kind_has_a_name_of_its_own_for_people_in_both_languages() -> None:
    for lang in ("zh", "en"):
        names = {kind: module.NAME[lang].strip() for kind, module in checks.modules().items()}
        assert all(names.values())
        assert len(set(names.values())) == len(names)
        assert {kind: checks.name(kind, lang) for kind in names} == names


def test_a_second_check_of_a_kind_and_one_that_is_gone_have_names_too() -> None:
    assert checks.name("no_absolute_2", "en") == "no absolute claim (2)"
    assert checks.name("contains_2", "zh") == f"{checks.name('contains', 'zh')} (2)"
    assert checks.name("removed_2", "zh") == "removed_2"


@pytest.mark.parametrize(
    ("kind", "args", "problem"),
    [
        ("gradng", {}, "no such check"),
        ("grading", {"value": "1级", "rival": []}, "grading.rival"),
        ("grading", {}, "grading.value"),
        ("figure", {"value": [140]}, "figure.value"),
        ("fields", {"fields": {"WBC": {"flag": "H"}}}, "flag"),
        ("fields", {"fields": {"WBC": {"vaule": "3"}}}, "vaule"),
        ("contains", {"any": "高"}, "contains.any"),
    ],
)
def test_a_check_written_wrongly_is_named(kind: str, args: dict, problem: str) -> None:
    found = checks.problems(Check(kind=kind, args=args))
    assert found and any(problem in one for one in found)


def test_every_check_of_the_demo_is_well_formed_and_its_right_answers_satisfy_all_of_theirs(root: Path) -> None:
    good = bad = 0
    for dim in ("accuracy", "warmth", "vision"):
        for line in (root / f"data/raw/demo/{dim}.jsonl").read_text(encoding="utf-8").splitlines():
            record = Record.model_validate_json(line)
            assert [problem for check in record.checks for problem in checks.problems(check)] == []
            marks = [checks.score(check, record.answer) or 0.0 for check in record.checks]
            if record.label == 1:
                assert marks and min(marks) == 1, record.answer
                good += 1
            elif not record.spans:
                bad += min(marks) == 1
    assert good > 1000
    assert bad < 0.02 * good  # hardly an undesirable answer passes
