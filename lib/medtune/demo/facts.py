"""What the demo knows: gradings and reference ranges for adults, symptoms, emergencies, departments.

The figures are those of the standards named beside them, checked against secondary sources only (see the source
card); they serve to make synthetic examples and are not medical advice.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

Level = Literal[0, 1, 2, 3]  # 0 as it should be, 1 watch it, 2 see a doctor, 3 see a doctor today
World = Literal["demo", "pretraining", "reserved"]

# What the recommended test cases ask: nobody trains on the figures, and only the base model has heard of the complaint.
RESERVED: dict[str, World] = {"血压:140/90": "reserved", "体温:38.5": "reserved", "症状:疲劳": "pretraining"}


def world(cluster: str) -> World:
    """Which of the two generators may use this cluster.

    The demo's data and the model's pre-training share one world of facts but no cluster: a hash decides, so neither
    needs to know what the other drew, and a test set can never have been seen in pre-training.
    """
    if cluster in RESERVED:
        return RESERVED[cluster]
    return "demo" if hashlib.sha256(cluster.encode()).digest()[0] % 2 else "pretraining"


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
class Step:
    """One grade of a scale: it holds below `below` and from the step before it on."""

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
    steps: tuple[Step, ...]
    sex: str = ""

    def read(self, value: float) -> Reading:
        """The grade of `value`, which is rounded to the scale's digits first."""
        value = round(value, self.digits)
        step = next(step for step in self.steps if value < step.below)
        grades = tuple(other.grade for other in self.steps)
        return Reading(
            self.item, f"{value:.{self.digits}f}", self.unit, self.sex, step.grade, rivals(step.grade, grades),
            step.rule, self.standard, self.department, step.level,
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
            Step(low, "偏低", rule, 2),
            Step(high + unit_in_last_place / 2, "正常范围", rule, 0),
            Step(math.inf, "偏高", rule, 2),
        ),
        sex,
    )  # fmt: skip


_BLOOD = "WS/T 405-2012"
_SUGAR = "《中国糖尿病防治指南》"
_FAT = "《中国血脂管理指南》"

TEMPERATURE = Scale("体温", "℃", 1, 36.2, 41.6, "腋温分度", "发热门诊", (
    Step(37.3, "体温正常", "36.0-37.2℃", 0),
    Step(38.1, "低热", "37.3-38.0℃", 1),
    Step(39.1, "中等度热", "38.1-39.0℃", 1),
    Step(41.1, "高热", "39.1-41.0℃", 2),
    Step(math.inf, "超高热", "高于41℃", 3),
))  # fmt: skip

SCALES: tuple[Scale, ...] = (
    TEMPERATURE,
    Scale("BMI", "", 1, 15.5, 34.0, "WS/T 428-2013", "营养科", (
        Step(18.5, "体重过低", "BMI<18.5", 1),
        Step(24.0, "体重正常", "BMI 18.5-23.9", 0),
        Step(28.0, "超重", "BMI 24.0-27.9", 1),
        Step(math.inf, "肥胖", "BMI≥28.0", 2),
    )),
    Scale("空腹血糖", "mmol/L", 1, 4.0, 14.0, _SUGAR, "内分泌科", (
        Step(6.1, "空腹血糖正常", "<6.1", 0),
        Step(7.0, "空腹血糖受损", "6.1-6.9", 1),
        Step(math.inf, "达到糖尿病诊断切点", "≥7.0", 2),
    )),
    Scale("糖耐量2小时血糖", "mmol/L", 1, 4.5, 17.0, _SUGAR, "内分泌科", (
        Step(7.8, "糖耐量正常", "<7.8", 0),
        Step(11.1, "糖耐量减低", "7.8-11.0", 1),
        Step(math.inf, "达到糖尿病诊断切点", "≥11.1", 2),
    )),
    Scale("总胆固醇", "mmol/L", 1, 3.2, 8.5, _FAT, "心内科", (
        Step(5.2, "合适水平", "<5.2", 0),
        Step(6.2, "边缘升高", "5.2-6.1", 1),
        Step(math.inf, "升高", "≥6.2", 2),
    )),
    Scale("甘油三酯", "mmol/L", 1, 0.6, 5.5, _FAT, "心内科", (
        Step(1.7, "合适水平", "<1.7", 0),
        Step(2.3, "边缘升高", "1.7-2.2", 1),
        Step(math.inf, "升高", "≥2.3", 2),
    )),
    Scale("低密度脂蛋白", "mmol/L", 1, 1.6, 6.0, _FAT, "心内科", (
        Step(3.4, "合适水平", "<3.4", 0),
        Step(4.1, "边缘升高", "3.4-4.0", 1),
        Step(math.inf, "升高", "≥4.1", 2),
    )),
    Scale("尿酸", "μmol/L", 0, 210, 640, "《高尿酸血症与痛风诊疗指南》", "风湿免疫科", (
        Step(421, "尿酸未超标", "≤420", 0),
        Step(math.inf, "高尿酸血症", ">420", 2),
    )),
    Scale("静息心率", "次/分", 0, 42, 138, "成人静息心率标准", "心内科", (
        Step(60, "心率过缓", "<60次/分", 1),
        Step(101, "心率正常", "60-100次/分", 0),
        Step(math.inf, "心率过速", ">100次/分", 2),
    )),
    Scale("血氧饱和度", "%", 0, 84, 99, "成人血氧标准", "呼吸科", (
        Step(90, "明显降低", "<90%", 3),
        Step(95, "血氧偏低", "90%-94%", 2),
        Step(math.inf, "血氧正常", "≥95%", 0),
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


@dataclass(frozen=True)
class Symptom:
    """A complaint, what often stands behind it, what to have looked at, and when not to wait."""

    name: str
    causes: str
    tests: str
    department: str
    alarm: str

    @property
    def cluster(self) -> str:
        """Every question about this complaint."""
        return f"症状:{self.name}"


SYMPTOMS: tuple[Symptom, ...] = tuple(
    Symptom(*row.split("|"))
    for row in """\
疲劳|贫血、甲状腺功能减退、睡眠不足|血常规和甲状腺功能|内科|胸闷气短
头晕|血压波动、贫血、耳石症|血压和血常规|神经内科|说话不清
头痛|紧张、偏头痛、血压升高|血压和神经系统检查|神经内科|突发剧烈头痛
失眠|焦虑、作息紊乱、咖啡因|睡眠评估|睡眠门诊|情绪持续低落
心慌|紧张、心律失常、甲亢|心电图和甲状腺功能|心内科|晕倒
胸闷|焦虑、心肌缺血、哮喘|心电图|心内科|持续胸痛
咳嗽|感冒、支气管炎、哮喘|胸片和血常规|呼吸科|咯血
咽痛|咽炎、扁桃体炎|咽部检查和血常规|耳鼻喉科|吞咽困难
鼻塞|感冒、过敏性鼻炎|鼻腔检查|耳鼻喉科|持续高烧
腹痛|胃肠炎、胆囊炎、阑尾炎|腹部超声和血常规|消化科|疼痛剧烈
腹泻|肠炎、饮食不洁|大便常规|消化科|便血
便秘|饮食纤维少、活动少|腹部检查|消化科|便血
反酸|胃食管反流、胃炎|胃镜|消化科|黑便
恶心|胃炎、妊娠、偏头痛|血常规和腹部超声|消化科|呕血
食欲差|胃炎、情绪、肝功能异常|肝功能和胃镜|消化科|体重骤降
腰痛|腰肌劳损、椎间盘突出|腰椎检查|骨科|下肢无力
膝盖痛|骨关节炎、半月板损伤|膝关节检查|骨科|关节红肿发热
颈肩酸痛|颈肌劳损、颈椎病|颈椎检查|骨科|手脚麻木
手脚麻木|颈椎病、糖尿病神经病变|血糖和肌电图|神经内科|一侧肢体无力
水肿|肾病、心功能不全、低蛋白|尿常规和肾功能|肾内科|呼吸困难
尿频|尿路感染、糖尿病、前列腺增生|尿常规和血糖|泌尿科|发烧腰痛
尿痛|尿路感染、结石|尿常规|泌尿科|血尿
皮疹|过敏、湿疹、病毒感染|皮肤检查|皮肤科|呼吸困难
皮肤瘙痒|干燥、湿疹、肝胆疾病|皮肤检查和肝功能|皮肤科|全身发黄
口干|糖尿病、干燥综合征、药物|血糖|内分泌科|意识模糊
多汗|甲亢、低血糖、更年期|甲状腺功能和血糖|内分泌科|胸痛
怕冷|甲状腺功能减退、贫血|甲状腺功能和血常规|内分泌科|嗜睡
体重下降|甲亢、糖尿病、消化疾病|血糖和甲状腺功能|内科|便血
月经不调|内分泌紊乱、压力|激素和妇科超声|妇科|大量出血
痛经|原发性痛经、子宫内膜异位|妇科超声|妇科|疼痛突然加重
脱发|压力、缺铁、甲状腺疾病|铁蛋白和甲状腺功能|皮肤科|头皮红肿
耳鸣|噪声、听力下降、血压波动|听力检查|耳鼻喉科|突然听不见
眼干|用眼过度、干眼症|眼表检查|眼科|视力骤降
视物模糊|屈光不正、白内障、糖尿病|视力和眼底检查|眼科|突然看不见
牙龈出血|牙周炎、血小板减少|口腔检查和血常规|口腔科|出血不止
焦虑|压力、睡眠差、甲亢|心理评估和甲状腺功能|心理科|想伤害自己
情绪低落|压力、抑郁、睡眠差|心理评估|心理科|想伤害自己
气短|贫血、哮喘、心功能不全|心电图和胸片|呼吸科|嘴唇发紫
关节痛|骨关节炎、痛风、类风湿|尿酸和类风湿因子|风湿免疫科|关节红肿发热
淋巴结肿大|感染、免疫疾病|血常规和淋巴结超声|血液科|持续增大""".splitlines()
)


@dataclass(frozen=True)
class Emergency:
    """A sign that cannot wait, what it may be, and what to do until help comes."""

    kind: str
    sign: str
    suspicion: str
    meanwhile: str

    @property
    def cluster(self) -> str:
        """Every question about this sign."""
        return f"急症:{self.sign}"


EMERGENCIES: tuple[Emergency, ...] = tuple(
    Emergency(*row.split("|"))
    for row in """\
胸痛|胸口像压了石头一样痛，半小时不缓解|急性心肌梗死|停止活动、半卧休息
胸痛|胸痛放射到左胳膊，还出冷汗|急性心肌梗死|停止活动、半卧休息
胸痛|突然胸背撕裂样剧痛|主动脉夹层|保持安静、不要走动
卒中|突然嘴歪、一边胳膊抬不起来|脑卒中|记下发病时间、不要喂水
卒中|突然说话不清，半边身子没力气|脑卒中|记下发病时间、不要喂水
卒中|突然一只眼看不见，走路不稳|脑卒中|记下发病时间、不要喂水
卒中|突然出现从未有过的剧烈头痛|蛛网膜下腔出血|平卧、不要搬动
过敏|吃完海鲜全身起疹子，喘不上气|严重过敏反应|平卧、远离过敏原
过敏|打针后嘴唇肿了，喉咙发紧|严重过敏反应|平卧、远离过敏原
呼吸|喘得说不出整句话，嘴唇发紫|急性呼吸衰竭|坐直、松开衣领
呼吸|血氧只有85%，呼吸很费力|急性呼吸衰竭|坐直、松开衣领
出血|呕了很多血，头晕站不住|消化道大出血|侧卧、不要进食
出血|伤口一直喷血止不住|动脉出血|用干净布用力压住伤口
昏迷|叫不醒，呼之不应|意识障碍|侧卧、清理口鼻
昏迷|糖尿病人呼吸有烂苹果味，人很迷糊|糖尿病酮症酸中毒|侧卧、不要喂食
抽搐|突然全身抽搐，口吐白沫|癫痫大发作|侧卧、移开硬物
孕产|怀孕八个月，头痛眼花，血压170/115|子痫前期|左侧卧、保持安静
婴儿|两个月大的宝宝发烧38.6度，不肯吃奶|婴儿严重感染|少穿衣、不要自行喂药
电解质|血钾6.8，心跳很慢|高钾血症|停止活动、静卧
心理|觉得活着没意思，想结束生命|严重的情绪危机|让家人陪在身边""".splitlines()
)


@dataclass(frozen=True)
class Disease:
    """A disease's name and the department that treats it."""

    name: str
    department: str

    @property
    def cluster(self) -> str:
        """Every question where to take this disease."""
        return f"科室:{self.name}"


@cache
def diseases() -> tuple[Disease, ...]:
    """The diseases of faker-healthcare-provider with short Chinese names (a package for development only)."""
    from faker_healthcare.zh_CN.disease_correlations import DISEASE_CORRELATIONS  # pyright: ignore[reportMissingImports]

    usual = {"心脏科": "心内科", "肾脏科": "肾内科", "呼吸内科": "呼吸科", "风湿病科": "风湿免疫科"}
    urgent = ("急性", "梗死", "栓塞", "气胸", "心包炎", "癫痫")  # a clinic's name would be the wrong answer
    rows: list[tuple[str, str]] = sorted(
        (name, data["medical_specialty"]) for name, data in DISEASE_CORRELATIONS.items()
    )
    return tuple(
        Disease(name, usual.get(place, place))
        for name, place in rows
        if len(name) <= 6 and not any(word in name for word in (*urgent, "其他")) and place != "重症监护"
    )
