"""The one form of a text that all checks read."""

from __future__ import annotations

import pytest

from medtune.checks._text import figures, normalise, sentences


@pytest.mark.parametrize("text", ["一级高血压", "1级高血压", "１ 级高血压", "Ⅰ级高血压", "I 级高血压"])
def test_a_grade_is_the_same_in_every_script(text: str) -> None:
    assert normalise(text) == "1级高血压"


def test_normal_form_keeps_powers_apart_and_units_together() -> None:
    assert normalise("3.5－9.5×10⁹/L") == "3.5-9.5×10^9/l"
    assert normalise("9.6 x10^9/L") == normalise("9.6×10９／Ｌ") == "9.6×10^9/l"
    assert normalise("38.5℃，ＯＫ。") == "38.5°c,ok."
    assert normalise("血 压 高") == "血压高"


def test_normalising_twice_changes_nothing() -> None:
    for text in ("Ⅱ级、３８．５℃；10¹²/L《指南》“好”…", "一度房室传导阻滞", "WBC 11.2×10⁹/L↑"):
        assert normalise(normalise(text)) == normalise(text)


def test_a_point_in_a_number_ends_no_sentence() -> None:
    assert sentences(normalise("体温38.5℃。请休息！")) == ["体温38.5°c", "请休息"]


def test_numbers_of_a_range_share_its_unit_and_names_are_no_numbers() -> None:
    assert [(f.value, f.unit) for f in figures(normalise("3.5-9.5×10⁹/L"))] == [
        (3.5, "×10^9/l"),
        (9.5, "×10^9/l"),
    ]
    assert [f.value for f in figures(normalise("FT3 偏高，BMI24.5"))] == [24.5]
