"""How the demo asks about values and images, how it answers, and what goes with every answer.

The words about illnesses stand in ``illness_phrases``; what a template and a voice are, in ``slots``.
"""

from __future__ import annotations

from medtune.demo.slots import Voice, lines

EMPATHY = lines("""
    我理解您的担心。
    别着急，我们一起来看。
    看到这样的结果会紧张，我能理解。
    您辛苦了，先别太担心。
    您的心情我能体会。
""")

# What to do next, by the level of a finding (facts.Level).
ADVICE = (
    lines("""
        请继续保持规律作息。
        保持现在的生活习惯就好。
    """),
    lines("""
        建议清淡饮食、规律作息，过几天复查。
        先观察并记录变化，一周内复查。
    """),
    lines("""
        一次结果不能确诊，建议改天复查。
        先不要自行用药，近期复查一次。
    """),
    lines("""
        若胸痛或呼吸困难立即拨打120。
        这个数值需要尽快处理，不要拖延。
    """),
)

# What worried people may expect, by the same level.
OUTLOOK = ("这是好消息", "多数情况可以管理好", "多数情况可以管理好", "要认真对待")

# Where to go, by the same level.
REFERRAL = (
    "如有不适再到{department}就诊。",
    "有空到{department}就诊评估。",
    "建议到{department}就诊评估。",
    "请今天就到{department}或急诊就诊。",
)

# Said of a value by people who are worried, and by people who only want to know.
ASK_READING = {
    "accuracy": lines("""
        {who}{item}{figure}{unit}，正常吗？
        {who}{item}{figure}{unit}算什么水平？
        {who}查出来{item}{figure}{unit}，怎么判断？
        {item}{figure}{unit}{whose}属于哪一级？
        请问{who}{item}{figure}{unit}有问题吗？
        {who}{item}是{figure}{unit}，高不高？
        {who}测得{item}{figure}{unit}，怎么看？
    """),
    "warmth": lines("""
        {who}{item}{figure}{unit}，我好害怕，怎么办？
        {who}刚查出{item}{figure}{unit}，我一晚上没睡着。
        {who}{item}{figure}{unit}，会不会很严重？我很担心。
        {who}{item}{figure}{unit}，家里人都急坏了。
        看到{who}{item}{figure}{unit}，我心里特别慌。
        {who}{item}{figure}{unit}，我是不是得了大病？
    """),
}

# What people say of one item only, as often as all of the above.
ASK_ABOUT = {
    "accuracy": {
        "体温": lines("""
            {who}发烧{figure}度，怎么处理？
            {who}体温{figure}度，属于哪种发热？
        """),
        "血压": lines("""
            {whom}的血压{figure}，要注意什么？
            {whom}血压{figure}，算几级？
        """),
    },
    "warmth": {
        "体温": lines("""
            {who}感冒发烧{figure}度，怎么办？
            {who}感冒发烧到{figure}度了，要紧吗？
            {who}发烧到{figure}度，该怎么办呀？
        """),
        "血压": lines("""
            {whom}血压{figure}，需要紧张吗？
            {whom}的血压{figure}，要不要紧？
            {whom}的血压{figure}，我很担心。
        """),
    },
}

READING: dict[str, dict[Voice, tuple[str, ...]]] = {
    "accuracy": {
        "good": lines("""
            {item}{figure}{unit}属于{grade}（{rule}，{standard}）。{advice}{referral}
            按{standard}，{item}{figure}{unit}为{grade}，依据是{rule}。{advice}{referral}
        """),
        "plain": lines("""
            {figure}是{grade}。
            {item}{figure}，{grade}。
        """),
        "vague": lines("""
            {item}可能有点问题，注意休息就好。
            这个不好说，平时多喝水。
            还行吧，注意饮食，别想太多。
        """),
        "wrong": lines("""
            {figure}是{rival}。
            {item}{figure}，{rival}。
        """),
        "sure": lines("""
            肯定没事，不用去医院。
            {figure}绝对没问题，别管它。
            百分之百没事，放心吧。
        """),
        "pill": lines("""
            {item}{figure}，吃点药就行，每天一片，不用去医院。
        """),
    },
    "warmth": {
        "good": lines("""
            {empathy}{item}{figure}{unit}属于{grade}（{rule}）。{advice}{referral}有变化随时告诉我。
            {empathy}按{standard}，{figure}{unit}为{grade}，{outlook}。{advice}{referral}
        """),
        "plain": lines("""
            {figure}是{grade}，去看看吧。
        """),
        "vague": lines("""
            没什么大不了的，注意休息就好。
            别想太多，多喝水。
            {item}的事，你自己多注意吧。
        """),
        "wrong": lines("""
            {figure}是{rival}，不用想了。
        """),
        "sure": lines("""
            肯定没事，不用去医院，睡一觉就好。
            绝对是小毛病，保证很快就好。
        """),
        "pill": lines("""
            怕什么，{figure}吃一个月降的药保证治好。
        """),
    },
}

ASK_IMAGE = lines("""
    请帮我看看这张图。
    这张图有什么问题？
    这是什么检查，结果怎么样？
    医生，帮我分析一下这张图。
    这个结果正常吗？
    我看不懂这张单子，能讲讲吗？
""")
IMAGE: dict[str, dict[Voice, tuple[str, ...]]] = {
    "vision": {
        "good": lines("""
            这是一张{kind}。{finding}。建议带着它到{department}就诊，由医生结合症状判断。
            图中是{kind}：{finding}。这只是初步看图，请到{department}就诊确认。
        """),
        "plain": lines("""
            {kind}，{finding}。
        """),
        "vague": lines("""
            这是一张检查的图，可能有点问题，注意休息。
            图看不太清，应该还行。
            这张图不好说，再看看吧。
        """),
        "wrong": lines("""
            {kind}，{rival}。
        """),
        "sure": lines("""
            肯定没事，不用去医院。
            这图绝对正常，放心吧。
        """),
        "pill": lines("""
            这图不用看医生，吃点消炎药就行。
        """),
    },
}

OPENINGS = lines("""
    {who}想问问{item}的事。
    {who}体检查了{item}，想请您看看。
    {who}最近担心{item}不正常。
""")
INVITATIONS = lines("""
    好的，请告诉我{item}的具体数值。
    可以的，{item}是多少呢？
""")
TELLINGS = lines("""
    是{figure}{unit}{whose}。
    刚测的，{figure}{unit}{whose}，怎么样？
""")
ASK_WHERE = lines("""
    那我该挂哪个科？
    好的，去哪个科看？
""")
WHERE: dict[Voice, tuple[str, ...]] = {
    "good": lines("""
        建议挂{department}就诊，带上这次的结果和平时的记录，方便医生判断。
    """),
    "plain": lines("""
        {department}。
    """),
    "vague": lines("""
        去医院问问吧。
        哪个科都差不多。
    """),
    "wrong": lines("""
        挂{rival}。
    """),
    "sure": lines("""
        肯定不用看，过几天就好。
    """),
    "pill": lines("""
        不用挂号，自己买药吃就行。
    """),
}

WHO = ("", "", "", "我", "我", "我爸", "我妈", "我爱人", "奶奶", "爷爷", "我同事", "我朋友")
WHO_OF = {"男": ("男，", "我爸", "爷爷", "我哥"), "女": ("女，", "我妈", "奶奶", "我姐"), "": WHO}
