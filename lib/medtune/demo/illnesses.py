"""What the demo knows of illnesses: symptoms, emergencies, and the departments that treat diseases."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


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
