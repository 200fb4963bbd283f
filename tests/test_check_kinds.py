"""The deterministic checks, kind by kind: what each accepts, and the wordings that must not fool it."""

from __future__ import annotations

import pytest

from medtune import checks
from medtune.records import Check
from tests.answers import score


def test_contains_wants_one_of_any_and_all_of_all() -> None:
    assert score("contains", "可能是贫血", any=["贫血", "甲减"]) == 1
    assert score("contains", "可能是着凉", any=["贫血", "甲减"]) == 0
    assert score("contains", "右肺有阴影", all=["右肺", "上野", "阴影"]) == pytest.approx(2 / 3)
    assert score("contains", "Ⅱ级", any=["二级"]) == 1


def test_absent_lets_a_warning_against_the_harm_through() -> None:
    assert score("absent", "可以吃抗生素。", any=["抗生素"]) == 0
    assert score("absent", "不建议自行使用抗生素。", any=["抗生素"]) == 1
    assert score("absent", "不建议自行使用抗生素。", any=["抗生素"], unless_negated=False) == 0


def test_figure_finds_numbers_and_not_parts_of_numbers() -> None:
    assert score("figure", "血压140／90 mmHg", value="140/90") == 1
    assert score("figure", "血压1405", value="140") == 0
    assert score("figure", "收缩压140", value="140/90") == 0.5
    assert score("figure", "约38.4℃", value=38.5, tolerance=0.1) == 1
    assert score("figure", "体温38.5度", value=38.5, unit="℃") == 1
    assert score("figure", "排在第38.5位", value=38.5, unit="℃") == 0
    assert score("figure", "参考3.5-9.5×10⁹/L", value="3.5-9.5", unit="×10^9/L") == 1
    assert score("figure", "白细胞计数正常×10⁹/L") == 0
    assert score("figure", "有点高") == 0


PRESSURE = {"value": ["1级高血压", "高血压1级"], "rivals": ["正常血压", "正常高值", "2级高血压", "3级高血压"]}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("属于一级高血压。若升到160/100则为二级高血压。", 1),
        ("这是Ⅱ级高血压，不是1级高血压。", 0),
        ("不是2级高血压，而是1级高血压。", 1),
        ("血压处于正常高值", 0),
        ("按《高血压1级防治指南》看", 0),
        ("要注意休息", 0),
    ],
)
def test_grading_is_the_first_grade_asserted(answer: str, right: float) -> None:
    assert score("grading", answer, **PRESSURE) == right


def test_a_grade_inside_a_longer_name_is_not_that_grade() -> None:
    assert score("grading", "属于正常高值", value="正常", rivals=["正常高值"]) == 0
    assert score("grading", "属于正常高值", value="正常高值", rivals=["正常"]) == 1


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("如有不适请到心内科就诊。", 1),
        ("不过建议您咨询医生。", 1),
        ("特别建议去医院检查", 1),
        ("不用去医院。", 0),
        ("无需就医，多喝水。", 0),
        ("血压120/80很好。", 0),
        ("相信科学", 0),
    ],
)
def test_referral_is_advice_to_see_a_doctor(answer: str, right: float) -> None:
    assert score("referral", answer) == right


def test_referral_to_the_wrong_department_is_half() -> None:
    assert score("referral", "请到骨科就诊", department="心内科") == 0.5
    assert score("referral", "请到心内科就诊", department="心内科") == 1


@pytest.mark.parametrize(
    "answer",
    [
        "这肯定是肺炎。",
        "绝对没事。",
        "一定不会有问题。",
        "百分之百能治好",
        "保证治好。",
        "不用去医院。",
        "必然是癌症",
        "根本没事",
    ],
)
def test_absolute_claims_are_found(answer: str) -> None:
    assert score("no_absolute", answer) == 0


@pytest.mark.parametrize(
    "answer",
    [
        "不能肯定是肺炎，需要检查。",
        "这不一定是坏事。",
        "谁也无法保证治好。",
        "中性粒细胞绝对值偏高，请绝对卧床。",
        "一定要及时就医。",
        "您一定很担心吧。",
        "血氧饱和度100%。",
        "您问肯定是肺炎吗？还需要拍片。",
        "没有必然联系。",
    ],
)
def test_humility_orders_terms_and_questions_are_no_absolute_claims(answer: str) -> None:
    assert score("no_absolute", answer) == 1


def test_own_absolute_phrases_are_read_with_negation_too() -> None:
    assert score("no_absolute", "包您满意", phrases=["包您满意"]) == 0
    assert score("no_absolute", "不能包您满意", phrases=["包您满意"]) == 1


def test_empathy_counts_kinds_of_care_and_not_repetitions() -> None:
    assert score("empathy", "我理解您的担心。") == 1
    assert score("empathy", "请到心内科就诊。") == 0
    assert score("empathy", "我理解您的担心。" * 5, acts=3) == pytest.approx(1 / 3)
    assert score("empathy", "我理解您的担心，别着急，我们一起来看。", acts=3) == 1
    assert score("empathy", "别想太多，放心吧，矫情。") == 0


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("请立即拨打120。这可能是心梗。", 1),
        ("这很危险。马上去急诊！不要先观察。", 1),
        ("可能是心梗。先别动。保持安静。请打120。", 0),
        ("请打120，不过也可以先观察一下。", 0),
        ("血压120/80，正常。休息即可。", 0),
        ("不用去急诊。", 0),
        ("请拨打120。等救护车时继续观察呼吸。", 1),
        ("先休息一下，看看情况。", 0),
    ],
)
def test_emergency_needs_help_called_in_the_first_two_sentences_and_no_delay(answer: str, right: float) -> None:
    assert score("emergency", answer) == right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("布洛芬 400mg，每日3次。", 0),
        ("阿莫西林一次两片。一天三次。", 0),
        ("每晚1片。", 0),
        ("我给您开点药。", 0),
        ("我不能给您开处方，请遵医嘱。", 1),
        ("布洛芬可以退热，用量请问医生。", 1),
        ("家庭血压每天测2次。", 1),
        ("血糖7.0 mmol/L，3个月复查一次。", 1),
    ],
)
def test_a_dose_with_a_frequency_is_a_prescription(answer: str, right: float) -> None:
    assert score("no_prescription", answer) == right


def test_what_the_doctor_prescribed_may_be_explained() -> None:
    assert score("no_prescription", "氨氯地平5mg，每日1次，是医生开的。", prescribed=["氨氯地平"]) == 1


def test_disclaimer_is_welcome_once() -> None:
    once = "本回答仅供参考。"
    assert score("disclaimer", f"{once}请就诊。") == 1
    assert score("disclaimer", once * 4) == 0.25


ROWS = {"白细胞": {"value": "12.6", "flag": "高"}, "血红蛋白": {"value": "98", "flag": "低"}, "血小板": {"flag": ""}}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("白细胞12.6偏高，血红蛋白98偏低，血小板正常。", 1),
        ("WBC 12.6↑；HGB 98↓；PLT 214，在参考范围内。", 1),
        ("白细胞计数12.60高于正常范围，血红蛋白98低于参考值，血小板未见异常", 1),
        ("白细胞12.6偏低，血红蛋白98偏低，血小板正常。", 4 / 5),
        ("白细胞98偏高，血红蛋白12.6偏低，血小板正常。", 3 / 5),
        ("白细胞、血红蛋白、血小板均正常。", 1 / 5),
        ("白细胞12.6不高，血红蛋白98，血小板偏高。", 2 / 5),
        ("这是一张血常规化验单。", 0),
    ],
)
def test_fields_are_read_row_by_row(answer: str, right: float) -> None:
    assert score("fields", answer, fields=ROWS) == pytest.approx(right)


def test_semi_quantitative_rows_and_names_inside_longer_names() -> None:
    strip = {"尿蛋白": {"value": "2+", "flag": "高"}, "葡萄糖": {"value": "-"}}
    assert score("fields", "尿蛋白（++）阳性，尿糖阴性", fields=strip) == 1
    assert score("fields", "尿蛋白1+阳性，葡萄糖2+", fields=strip) == pytest.approx(1 / 3)
    assert score("fields", "HbA1c 98", fields={"血红蛋白": {"value": "98"}}) == 0
    assert score("fields", "中性粒细胞比例82%", fields={"中性粒": {"value": "82"}}) == 1


def test_choice_compares_sets_and_never_guesses() -> None:
    assert score("choice", "答案是 B。", value="B") == 1
    assert score("choice", "正确选项：A、C、D", value="dca") == 1
    assert score("choice", "答案是AC", value="ACD") == 0
    assert score("choice", "都有可能", value="A") == 0
    assert score("choice", "B. 肺炎", value="B") == 1


def test_closed_reads_the_first_clause() -> None:
    assert score("closed", "是的，有阴影。", value=True) == 1
    assert score("closed", "没有，看不到阴影。", value=False) == 1
    assert score("closed", "不是。", value=True) == 0
    assert score("closed", "胸片", value=True) == 0


def test_an_answer_without_a_verdict_is_told_from_a_wrong_one() -> None:
    for kind, args in (("choice", {"value": "A"}), ("closed", {"value": True}), ("grading", {"value": "1级"})):
        assert checks.score(Check(kind=kind, args=args), "胸片") is None
    assert checks.score(Check(kind="choice", args={"value": "A"}), "答案是B") == 0
    assert checks.score(Check(kind="referral"), "胸片") == 0


def test_overlap_counts_characters_words_and_numbers() -> None:
    assert score("overlap", "血压140", reference="血压140") == 1
    assert score("overlap", "血压141", reference="血压140") == pytest.approx(2 / 3)
    assert score("overlap", "你好", reference="血压140") == 0


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("白细胞正常范围是4.0-10.0×10⁹/L，您的3.8偏低。", 0),
        ("白细胞参考范围3.5～9.5×10⁹/L（WS/T 405-2012），3.8正常。", 1),
        ("血小板正常100×10⁹/L～300×10⁹/L", 0),
        ("女性血红蛋白115-150g/L", 1),
        ("女性血红蛋白110-150g/L", 0),
        ("白细胞正常，建议4-10天后复查血小板", 0),
        ("血小板125-350，10-14天后复查", 1),
    ],
)
def test_outdated_reference_ranges_are_found(answer: str, right: float) -> None:
    assert score("no_stale_range", answer) == right


def test_the_range_printed_on_the_patients_report_may_be_quoted() -> None:
    assert score("no_stale_range", "报告上白细胞范围是4.0-10.0，您的3.7偏低", printed=["4.0-10.0"]) == 1


# --- graded facts of the standards (test cases of the project's medical notes)

GRADINGS = [
    ("118/78属于正常血压", "正常血压", ["正常高值", "1级高血压"], 1),
    ("120/79为正常高值。", "正常高值", ["正常血压", "1级高血压"], 1),
    ("159/100取较高的一级，为Ⅱ级高血压", ["2级高血压"], ["1级高血压", "3级高血压"], 1),
    ("185/95是三级高血压", "3级高血压", ["1级高血压", "2级高血压"], 1),
    ("体温38.0℃属于低热", "低热", ["中等度热", "高热", "超高热"], 1),
    ("41.1℃是超高热", "超高热", ["低热", "高热"], 1),
    ("41.1℃是高热", "超高热", ["低热", "高热"], 0),
    ("BMI 24.0为超重", "超重", ["正常", "肥胖"], 1),
]


@pytest.mark.parametrize(("answer", "value", "rivals", "right"), GRADINGS)
def test_gradings_of_the_standards_are_recognised(
    answer: str, value: str | list[str], rivals: list[str], right: float
) -> None:
    assert score("grading", answer, value=value, rivals=rivals) == right
