"""What the demo knows of measured values: gradings and reference ranges for adults.

The figures are those of the standards named beside them, checked against secondary sources only (see the source
card); they serve to make synthetic examples and are not medical advice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Level = Literal[0, 1, 2, 3]  # 0 as it should be, 1 watch it, 2 see a doctor, 3 see a doctor today


@dataclass(frozen=True)
class Reading:
    """One measured value held against its standard."""

    item: str
    figure: str
    unit: str
    sex: str  # "男", "女", or "" where the standard makes no difference
    grade: str
    rivals: tuple[str, ...]  # the other grades, without those that stand inside this one's name
    rule: str
    standard: str
    department: str
    level: Level

    @property
    def cluster(self) -> str:
        """Every question about this value of this item, whoever asks and however."""
        return f"{self.item}:{self.sex}{self.figure}"


@dataclass(frozen=True)
class Band:
    """One grade of a scale: it holds below `below` and from the band before it on."""

    below: float
    grade: str
    rule: str
    level: Level


@dataclass(frozen=True)
class Scale:
    """A standard that grades one number."""

    item: str
    unit: str
    digits: int
    low: float  # the plausible interval values are drawn from
    high: float
    standard: str
    department: str
    bands: tuple[Band, ...]
    sex: str = ""

    def read(self, value: float) -> Reading:
        """The grade of `value`, which is rounded to the scale's digits first."""
        value = round(value, self.digits)
        band = next(band for band in self.bands if value < band.below)
        grades = tuple(other.grade for other in self.bands)
        return Reading(
            self.item, f"{value:.{self.digits}f}", self.unit, self.sex, band.grade, rivals(band.grade, grades),
            band.rule, self.standard, self.department, band.level,
        )  # fmt: skip


def rivals(grade: str, grades: tuple[str, ...]) -> tuple[str, ...]:
    """The grades an answer that says `grade` must not say: all others but those inside its own name."""
    return tuple(other for other in grades if other not in grade)


PRESSURE_GRADES: tuple[tuple[int, int, str, str, Level], ...] = (  # systolic from, diastolic from, grade, rule, level
    (0, 0, "正常血压", "收缩压<120且舒张压<80", 0),
    (120, 80, "正常高值", "收缩压120-139和/或舒张压80-89", 1),
    (140, 90, "1级高血压", "收缩压140-159和/或舒张压90-99", 2),
    (160, 100, "2级高血压", "收缩压160-179和/或舒张压100-109", 2),
    (180, 110, "3级高血压", "收缩压≥180和/或舒张压≥110", 3),
)


def blood_pressure(systolic: int, diastolic: int) -> Reading:
    """Office blood pressure by 中国高血压防治指南: the higher of the two categories counts."""
    index = max(i for i, (s, d, *_) in enumerate(PRESSURE_GRADES) if systolic >= s or diastolic >= d)
    _, _, grade, rule, level = PRESSURE_GRADES[index]
    grades = tuple(row[2] for row in PRESSURE_GRADES)
    return Reading(
        "血压", f"{systolic}/{diastolic}", "mmHg", "", grade, rivals(grade, grades), rule,
        "《中国高血压防治指南》", "心内科", level,
    )  # fmt: skip


def _interval(
    item: str, unit: str, digits: int, normal: tuple[float, float], drawn: tuple[float, float],
    standard: str, department: str, sex: str = "",
) -> Scale:  # fmt: skip
    """A laboratory reference interval, both ends inside."""
    low, high = normal
    rule = f"参考范围{low:.{digits}f}-{high:.{digits}f}"
    unit_in_last_place = 10.0**-digits
    return Scale(
        item, unit, digits, *drawn, standard, department,
        (
            Band(low, "偏低", rule, 2),
            Band(high + unit_in_last_place / 2, "正常范围", rule, 0),
            Band(math.inf, "偏高", rule, 2),
        ),
        sex,
    )  # fmt: skip


_BLOOD = "WS/T 405-2012"
_SUGAR = "《中国糖尿病防治指南》"
_FAT = "《中国血脂管理指南》"

TEMPERATURE = Scale("体温", "℃", 1, 36.2, 41.6, "腋温分度", "发热门诊", (
    Band(37.3, "体温正常", "36.0-37.2℃", 0),
    Band(38.1, "低热", "37.3-38.0℃", 1),
    Band(39.1, "中等度热", "38.1-39.0℃", 1),
    Band(41.1, "高热", "39.1-41.0℃", 2),
    Band(math.inf, "超高热", "高于41℃", 3),
))  # fmt: skip

SCALES: tuple[Scale, ...] = (
    TEMPERATURE,
    Scale("BMI", "", 1, 15.5, 34.0, "WS/T 428-2013", "营养科", (
        Band(18.5, "体重过低", "BMI<18.5", 1),
        Band(24.0, "体重正常", "BMI 18.5-23.9", 0),
        Band(28.0, "超重", "BMI 24.0-27.9", 1),
        Band(math.inf, "肥胖", "BMI≥28.0", 2),
    )),
    Scale("空腹血糖", "mmol/L", 1, 4.0, 14.0, _SUGAR, "内分泌科", (
        Band(6.1, "空腹血糖正常", "<6.1", 0),
        Band(7.0, "空腹血糖受损", "6.1-6.9", 1),
        Band(math.inf, "达到糖尿病诊断切点", "≥7.0", 2),
    )),
    Scale("糖耐量2小时血糖", "mmol/L", 1, 4.5, 17.0, _SUGAR, "内分泌科", (
        Band(7.8, "糖耐量正常", "<7.8", 0),
        Band(11.1, "糖耐量减低", "7.8-11.0", 1),
        Band(math.inf, "达到糖尿病诊断切点", "≥11.1", 2),
    )),
    Scale("总胆固醇", "mmol/L", 1, 3.2, 8.5, _FAT, "心内科", (
        Band(5.2, "合适水平", "<5.2", 0),
        Band(6.2, "边缘升高", "5.2-6.1", 1),
        Band(math.inf, "升高", "≥6.2", 2),
    )),
    Scale("甘油三酯", "mmol/L", 1, 0.6, 5.5, _FAT, "心内科", (
        Band(1.7, "合适水平", "<1.7", 0),
        Band(2.3, "边缘升高", "1.7-2.2", 1),
        Band(math.inf, "升高", "≥2.3", 2),
    )),
    Scale("低密度脂蛋白", "mmol/L", 1, 1.6, 6.0, _FAT, "心内科", (
        Band(3.4, "合适水平", "<3.4", 0),
        Band(4.1, "边缘升高", "3.4-4.0", 1),
        Band(math.inf, "升高", "≥4.1", 2),
    )),
    Scale("尿酸", "μmol/L", 0, 210, 640, "《高尿酸血症与痛风诊疗指南》", "风湿免疫科", (
        Band(421, "尿酸未超标", "≤420", 0),
        Band(math.inf, "高尿酸血症", ">420", 2),
    )),
    Scale("静息心率", "次/分", 0, 42, 138, "成人静息心率标准", "心内科", (
        Band(60, "心率过缓", "<60次/分", 1),
        Band(101, "心率正常", "60-100次/分", 0),
        Band(math.inf, "心率过速", ">100次/分", 2),
    )),
    Scale("血氧饱和度", "%", 0, 84, 99, "成人血氧标准", "呼吸科", (
        Band(90, "明显降低", "<90%", 3),
        Band(95, "血氧偏低", "90%-94%", 2),
        Band(math.inf, "血氧正常", "≥95%", 0),
    )),
    _interval("白细胞", "", 1, (3.5, 9.5), (1.2, 19.0), _BLOOD, "血液科"),
    _interval("血小板", "", 0, (125, 350), (42, 520), _BLOOD, "血液科"),
    _interval("中性粒细胞百分比", "%", 0, (40, 75), (18, 95), _BLOOD, "血液科"),
    _interval("血红蛋白", "g/L", 0, (130, 175), (72, 205), _BLOOD, "血液科", "男"),
    _interval("血红蛋白", "g/L", 0, (115, 150), (62, 185), _BLOOD, "血液科", "女"),
    _interval("谷丙转氨酶", "U/L", 0, (9, 50), (10, 190), "WS/T 404.1-2012", "消化科", "男"),
    _interval("谷丙转氨酶", "U/L", 0, (7, 40), (8, 190), "WS/T 404.1-2012", "消化科", "女"),
    _interval("肌酐", "μmol/L", 0, (57, 97), (41, 210), "WS/T 404.5-2015", "肾内科", "男"),
    _interval("肌酐", "μmol/L", 0, (41, 73), (31, 190), "WS/T 404.5-2015", "肾内科", "女"),
    _interval("血钾", "mmol/L", 1, (3.5, 5.3), (2.8, 6.2), "WS/T 404.3-2012", "肾内科"),
    _interval("血钠", "mmol/L", 0, (137, 147), (126, 156), "WS/T 404.3-2012", "肾内科"),
    _interval("白蛋白", "g/L", 0, (40, 55), (25, 62), "WS/T 404.2-2012", "消化科"),
)  # fmt: skip
