"""Personal data in Chinese medical text: a small set of rules, each with a check against false alarms.

Health data may only leave the hospital without the person. Names are looked for only where a form or a speaker
introduces one, since a free search for names marks 高血压 and 白细胞 as persons.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999 (ISO 7064, MOD 11-2)
CHECK_DIGITS = "10X98765432"

SURNAMES = frozenset(
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭"
    "陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤常温康施文牛樊葛邢安齐易"
    "乔伍庞颜倪庄聂章鲁岳翟殷詹申欧耿关兰焦俞左柳甘祝包宁尚符舒阮柯纪梅童凌毕单季裴霍涂成苗谷盛曲翁冉骆蓝路游辛靳欧管"
    "柴蒙鲍华喻祁蒲房滕屈饶解牟艾尤阳时穆农司卓古吉缪简车项连芦麦褚娄窦戚岑景党宫费卜冷晏席卫米柏宗瞿桂全佟应臧闵苟邬"
    "边卞姬师和仇栾隋商刁沙荣巫寇桑郎甄丛仲虞敖巩明佘池查麻苑迟邝"
)
COMPOUND = re.compile("欧阳|司马|上官|诸葛|夏侯|东方|皇甫|尉迟|公孙|慕容|令狐|司徒|端木|南宫")
# After a surname that is also a word's first character: no name has these, many medical words do.
NOT_IN_NAMES = frozenset(
    "血压糖脂热烧胞疸染肿痛炎症病痒泻咳喘晕吐伤癌瘤斑带疹便尿酸钙钾钠醇体液质量重度性型期前后昨今日夜天周月年时常有无"
    "不没未是的了着过可能应该当需要会将把被在用服吃药做查检验诊疗治术院科室医护士者属侧肺肝肾胃肠脑眼耳鼻喉腹胸背腰腿手"
    "脚头颈身部区右左上下中内外多少个次分钟素说问叫去来到出入住门急慢更已曾经正也都很太较最每各该此其某男女龄好间人节汗"
    "虑怒颤色复显低偏升原哪噪感甲焦空紧超边达遗骨吗图磁停告坐卧让记么什淋类肌值癣奶嗪霉素胺膏何续范围张理反"
)
WORDY = frozenset("和时查麻焦边明师解应司管关路单常全成向易冷项连")  # rare as surnames, common as words
STOP_WORDS = re.compile("高血压|高血糖|高血脂|高热|白细胞|白蛋白|黄疸|于昨日|石女|安静|常规|严重|方便|保密|和家|卫生")

_EDGE = r"(?![0-9A-Za-z])"
_START = r"(?<![0-9A-Za-z.])"
ID_18 = re.compile(_START + r"([1-9]\d{5}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx])" + _EDGE)
ID_SLOT = re.compile(r"身份证[^0-9]{0,8}(\d{17}[\dXx]|\d{15})" + _EDGE)
MOBILE = re.compile(_START + r"(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}" + _EDGE)
LANDLINE = re.compile(_START + r"\(?0\d{2,3}(?:\)|-| )[ ]?\d{7,8}" + _EDGE)
LANDLINE_SLOT = re.compile(r"(?:电话|座机|致电|拨打|Tel)[^0-9]{0,4}0\d{9,11}" + _EDGE, re.IGNORECASE)
EMAIL = re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
_CHAT = r"(?<![A-Za-z])(?:微信|wechat|weixin|vx|wx|V信)"
WECHAT = re.compile(
    rf"{_CHAT}(?:号?\s*[:是为]\s*|号\s*)([A-Za-z][\w-]{{5,19}}|1\d{{10}})|{_CHAT}\s*(?=[\w-]*\d)([A-Za-z][\w-]{{5,19}})",
    re.IGNORECASE | re.ASCII,
)
QQ = re.compile(r"(?:QQ|扣扣)\s*(?:群|号)*\s*[:是为]?\s*([1-9]\d{4,10})" + _EDGE, re.IGNORECASE)
NUMBER_SLOT = re.compile(
    r"(?:住院|门诊|病历|病案|就诊|登记|检查|条码|样本|标本|影像|医保|社保|就诊卡|医保卡|社保卡)(?:号|号码|编号|卡号)"
    r"\s*(?:[:是为]\s*)?((?=[A-Za-z-]*\d)[A-Za-z0-9-]{4,})"
)
_NAME = rf"((?:{COMPOUND.pattern}|[{''.join(sorted(SURNAMES))}])[一-鿿]{{1,2}}?)"
_AFTER = r"(?=$|[\s,.;:!?()、。，；：！？（）\d]|先生|女士|男|女|今年|本人|性别|年龄|岁|电话|是一)"
NAME_SLOT = re.compile(r"(?:姓\s*名\s*[:是为]?\s*|我叫\s*|我的名字[是叫]\s*)" + _NAME + _AFTER)
PATIENT_SLOT = re.compile(r"(?:患者|病人|病员)\s*[:]?\s*" + _NAME + _AFTER)


def findings(text: str) -> list[str]:
    """The kinds of personal data in a text, each once, in the order of ``RULES``; never the data itself."""
    plain = unicodedata.normalize("NFKC", text)  # full-width digits and colons
    return [kind for kind, found in RULES.items() if found(plain)]


def id_checksum(number: str) -> bool:
    """Whether the 18th character of a resident ID number fits the 17 before it (GB 11643-1999)."""
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], WEIGHTS, strict=True))
    return CHECK_DIGITS[total % 11] == number[17].upper()


def _id_number(text: str) -> bool:
    # after the word 身份证 a number with a wrong check digit is still a mistyped person
    return bool(ID_SLOT.search(text)) or any(id_checksum(number) for number in ID_18.findall(text))


def _landline(text: str) -> bool:
    return bool(LANDLINE.search(text) or LANDLINE_SLOT.search(text))


def _name(text: str) -> bool:
    said = (name for name in NAME_SLOT.findall(text) if not _is_word(name))
    # 患者 stands before any sentence, 姓名 only before a name: the stricter test for the weaker hint
    told = (name for name in PATIENT_SLOT.findall(text) if not _is_word(name) and not _may_be_word(name))
    return any(said) or any(told)


def _may_be_word(name: str) -> bool:
    wordy = name[0] in WORDY and not COMPOUND.match(name)
    return wordy or not NOT_IN_NAMES.isdisjoint(_given(name))


def _is_word(name: str) -> bool:
    return bool(STOP_WORDS.match(name)) or not _given(name).isdisjoint("某×*")


def _given(name: str) -> set[str]:
    return set(name[2:] if COMPOUND.match(name) else name[1:])


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.search(text) is not None


RULES: dict[str, Callable[[str], bool]] = {
    "id_number": _id_number,
    "mobile": _matches(MOBILE),
    "landline": _landline,
    "email": _matches(EMAIL),
    "wechat": _matches(WECHAT),
    "qq": _matches(QQ),
    "record_number": _matches(NUMBER_SLOT),
    "name": _name,
}
