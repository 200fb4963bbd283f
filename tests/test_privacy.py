"""Personal data is found, and medical words are not taken for it."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from medtune.data.privacy import CHECK_DIGITS, SURNAMES, WEIGHTS, findings, id_checksum


@pytest.mark.parametrize(
    ("number", "valid"),
    [("11010519491231002X", True), ("440524188001010014", True), ("110105194912310021", False)],
)
def test_the_check_digit_is_that_of_the_standard(number: str, valid: bool) -> None:
    assert id_checksum(number) == valid


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("id_number", "号码11010519491231002X请核对"),
        ("id_number", "身份证号：110105194912310021"),  # mistyped, still a person's
        ("id_number", "１１０１０５１９４９１２３１００２Ｘ"),
        ("mobile", "电话13812345678"),
        ("mobile", "+86 138-1234-5678"),
        ("landline", "联系电话：010-62345678"),
        ("landline", "拨打01062345678"),
        ("email", "发到zhang.san@example.com吧"),
        ("wechat", "微信号：zhangsan_88"),
        ("wechat", "加我微信 abc12345"),
        ("qq", "QQ：12345678"),
        ("record_number", "住院号：A123456"),
        ("record_number", "门诊号 20231234"),
        ("record_number", "病历号0012345"),
        ("name", "姓名：张伟 性别：男"),
        ("name", "我叫李雷，今年30岁"),
        ("name", "患者王芳，女，45岁"),
        ("name", "病人司马光先生"),
        ("name", "姓名：欧阳娜娜"),
    ],
)
def test_personal_data_is_found(kind: str, text: str) -> None:
    assert kind in findings(text)


@pytest.mark.parametrize(
    "text",
    [
        "110105194912310021 是标本数",
        "患者高血压，三年",
        "患者白细胞升高。",
        "患者黄疸，加重",
        "患者于昨日入院",
        "患者明显，好转",
        "患者焦虑，失眠",
        "患者和家属，都来了",
        "姓名：某某",
        "患者张某，男",
        "我叫车去医院。",
        "门诊号源紧张，请提前预约",
        "微信公众号里可以预约",
        "请拨打120或12320",
        "血压140/90mmHg，白细胞3.5-9.5×10^9/L",
        "WS/T 405-2012、GB 11643-1999",
        "doi 10.1016/j.cell.2020.01.001，2024-03-15 10:30",
    ],
)
def test_medical_text_is_not_personal(text: str) -> None:
    assert findings(text) == []


def test_ninety_nine_of_a_hundred_made_up_numbers_and_names_are_found() -> None:
    draw = random.Random(0)
    texts = []
    for _ in range(500):
        body = f"{draw.randint(11, 65)}{draw.randint(0, 9999):04}19{draw.randint(30, 99)}{draw.randint(1, 12):02}"
        body += f"{draw.randint(1, 28):02}{draw.randint(0, 999):03}"
        check = CHECK_DIGITS[sum(int(d) * w for d, w in zip(body, WEIGHTS, strict=True)) % 11]
        phone = f"1{draw.randint(3, 9)}{draw.randint(0, 999999999):09}"
        given = "".join(draw.choices("伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英", k=draw.randint(1, 2)))
        texts += [f"您好{body}{check}谢谢", f"打{phone}找我", f"姓名：{draw.choice(sorted(SURNAMES))}{given}，男"]
    missed = [text for text in texts if not findings(text)]
    assert len(missed) <= len(texts) / 100, missed[:20]


def test_no_sentence_of_the_demo_is_taken_for_personal_data(root: Path) -> None:
    contents = [
        turn["content"]
        for file in sorted((root / "data" / "raw" / "demo").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
        for turn in json.loads(line)["messages"]
    ]
    clauses = {"患者" + clause for content in contents for clause in re.split(r"(?<=[，。；、])", content)}
    assert len(clauses) > 1000
    assert [text for text in [*contents, *sorted(clauses)] if findings(text)] == []
