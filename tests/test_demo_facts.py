"""The demo's facts are the standards', and no fact belongs to both of its worlds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from medtune.config import load
from medtune.demo import facts, sampling, slots
from medtune.schemas import DataConfig


@pytest.mark.parametrize(
    ("systolic", "diastolic", "grade"),
    [
        (118, 78, "正常血压"),
        (120, 79, "正常高值"),
        (139, 89, "正常高值"),
        (140, 89, "1级高血压"),
        (138, 90, "1级高血压"),
        (159, 100, "2级高血压"),
        (185, 95, "3级高血压"),
    ],
)
def test_the_higher_of_the_two_pressures_decides_the_grade(systolic: int, diastolic: int, grade: str) -> None:
    assert facts.blood_pressure(systolic, diastolic).grade == grade


@pytest.mark.parametrize(
    ("item", "sex", "value", "grade"),
    [
        ("体温", "", 37.2, "体温正常"),
        ("体温", "", 37.3, "低热"),
        ("体温", "", 38.1, "中等度热"),
        ("体温", "", 39.1, "高热"),
        ("体温", "", 41.0, "高热"),
        ("体温", "", 41.1, "超高热"),
        ("BMI", "", 23.9, "体重正常"),
        ("BMI", "", 24.0, "超重"),
        ("BMI", "", 28.0, "肥胖"),
        ("空腹血糖", "", 6.0, "空腹血糖正常"),
        ("空腹血糖", "", 6.1, "空腹血糖受损"),
        ("空腹血糖", "", 7.0, "达到糖尿病诊断切点"),
        ("白细胞", "", 3.8, "正常范围"),
        ("白细胞", "", 9.5, "正常范围"),
        ("白细胞", "", 9.6, "偏高"),
        ("血小板", "", 110, "偏低"),
        ("血小板", "", 320, "正常范围"),
        ("血红蛋白", "女", 118, "正常范围"),
        ("血红蛋白", "男", 118, "偏低"),
        ("尿酸", "", 420, "尿酸未超标"),
        ("尿酸", "", 421, "高尿酸血症"),
        ("血氧饱和度", "", 95, "血氧正常"),
    ],
)
def test_a_value_at_the_edge_of_a_grade_falls_on_the_side_the_standard_says(
    item: str, sex: str, value: float, grade: str
) -> None:
    (scale,) = [scale for scale in facts.SCALES if (scale.item, scale.sex) == (item, sex)]
    assert scale.read(value).grade == grade


def test_no_fact_belongs_to_both_worlds_and_each_world_has_every_kind() -> None:
    kinds = (sampling.reading, sampling.symptom, sampling.emergency, sampling.sheet, sampling.examination)
    for kind in kinds:
        found = {name: set() for name in ("demo", "pretraining")}
        for name, clusters in found.items():
            rng = random.Random(1)
            clusters.update(kind(rng, name).cluster for _ in range(300))
        assert found["demo"] and found["pretraining"] and not found["demo"] & found["pretraining"]


def test_the_demos_settings_name_the_standards_its_facts_come_from(root: Path) -> None:
    source = load(DataConfig, root / "configs/demo/data.yaml").sources[0]
    assert set(source.standards) == {scale.standard for scale in facts.SCALES if scale.standard.startswith("WS/T")}


def test_a_filled_template_knows_where_each_fact_stands() -> None:
    line = slots.fill("{item}{figure}属于{grade}。", {"item": "血压", "figure": "150/95", "grade": "1级高血压"})
    assert line.text == "血压150/95属于1级高血压。"
    assert {name: line.text[slice(*place)] for name, place in line.places.items()} == {
        "item": "血压",
        "figure": "150/95",
        "grade": "1级高血压",
    }
