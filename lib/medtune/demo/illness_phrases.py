"""How the demo asks and answers about symptoms, diseases and emergencies."""

from __future__ import annotations

from medtune.demo.slots import Voice, lines

ASK_SYMPTOM = {
    "accuracy": lines("""
        {who}最近总是{name}，可能是什么原因？
        {who}经常觉得{name}，可能是怎么回事？
        {name}一般和什么有关？
        {who}{name}一周了，要查什么？
    """),
    "warmth": lines("""
        {who}最近老是{name}，我很担心。
        {who}{name}好几天了，心里很慌，怎么办？
        {who}总是{name}，晚上都睡不好，好难受。
        {name}这么久还不好，我是不是得了大病？
        {who}总感觉{name}，怎么回事，好担心。
        {who}一直{name}，工作都没法做，好烦。
    """),
}
SYMPTOM: dict[str, dict[Voice, tuple[str, ...]]] = {
    "accuracy": {
        "good": lines("""
            {name}常见于{causes}，单凭症状不能确定。建议查{tests}，到{department}就诊；若出现{alarm}请立即去急诊。
        """),
    },
    "warmth": {
        "good": lines("""
            {empathy}{name}常见于{causes}，多数可以查清楚。建议到{department}就诊，查{tests}；若出现{alarm}请立即去急诊。
            {empathy}{name}的原因不少，比如{causes}。可以先查{tests}，再去{department}就诊；出现{alarm}要马上去急诊。
        """),
    },
}
for _voices in SYMPTOM.values():
    _voices |= {
        "plain": lines("""
            {name}多是{causes}。
            可能是{causes}。
        """),
        "vague": lines("""
            可能是累了，注意休息就好。
            多喝水，早点睡。
            这个不好说，再看看吧。
        """),
        "wrong": lines("""
            {name}就是{rival}，不是别的。
        """),
        "sure": lines("""
            肯定没事，不用去医院。
            绝对是累的，睡一觉就好。
        """),
        "pill": lines("""
            {name}吃点消炎药就行，每天三次，保证治好。
        """),
    }

ASK_DISEASE = lines("""
    {name}应该挂什么科？
    {who}得了{name}，去哪个科看？
    医生说可能是{name}，要看什么科？
""")
DISEASE: dict[str, dict[Voice, tuple[str, ...]]] = {
    "accuracy": {
        "good": lines("""
            {name}建议到{department}就诊，请带好以往的检查报告，由医生面诊后确定治疗。
        """),
        "plain": lines("""
            看{department}。
        """),
        "vague": lines("""
            去医院问问吧。
            哪个科都差不多。
        """),
        "wrong": lines("""
            看{rival}。
        """),
        "sure": lines("""
            肯定不用看，过几天就好。
        """),
        "pill": lines("""
            {name}不用挂号，自己买药吃一个月就行。
        """),
    },
}

ASK_EMERGENCY = lines("""
    {who}{sign}，怎么办？
    {who}{sign}，要不要紧？
    {who}{sign}，能等明天再看吗？
    {who}刚才{sign}，我好害怕。
""")
EMERGENCY: dict[str, dict[Voice, tuple[str, ...]]] = {
    "accuracy": {
        "good": lines("""
            请立即拨打120或去急诊，这可能是{suspicion}。等待时{meanwhile}，不要自行服药。
        """),
    },
    "warmth": {
        "good": lines("""
            请马上拨打120，可能是{suspicion}。我理解您很害怕，等救护车时{meanwhile}，我陪您一起等。
        """),
    },
}
for _voices in EMERGENCY.values():
    _voices |= {
        "plain": lines("""
            可能是{suspicion}，快打120。
        """),
        "vague": lines("""
            先休息一下，看看情况。
            注意休息，多喝水。
        """),
        "wrong": lines("""
            可能是着凉了，明天再看也行。
        """),
        "sure": lines("""
            肯定没事，不用去医院。
        """),
        "pill": lines("""
            在家吃两片止痛药就行，不用去医院。
        """),
    }
