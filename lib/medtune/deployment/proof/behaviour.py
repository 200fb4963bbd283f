"""What a folder answers, measured against the references: shared by every level that can run it.

KL(p || q) = sum_v p(v) (log p(v) - log q(v)) in nats, mean over the positions of one canary's answer.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medtune.deployment.proof import Fault, Subject, Verdict, probe
from medtune.i18n import Words

if TYPE_CHECKING:
    from medtune.deployment.proof.references import Reference

KL_LIMIT = 1e-3  # nats, of a canary: what rounding to bf16 or 8 bits leaves
KL_SHARE = 0.05  # or this share of the distance the tuned model has from the base
NEARER = 2.0  # the folder must be so many times nearer to base + adapter than to the base
SEES = 0.5  # share of the tuned model's dependence on its image
OTHER = "/other"
PATIENCE = 3600  # seconds; a large model from a slow disk takes minutes
FIGURES: Words = {
    "en": "KL to base + adapter {kl_to_tuned:.2g}, to the base {kl_to_base_mean:.2g}; {flips} of {positions} top "
    "tokens flipped",
    "zh": "与基础模型加适配器的 KL 为 {kl_to_tuned:.2g}，与基础模型为 {kl_to_base_mean:.2g}；{positions} 个首选词元中 "
    "{flips} 个不同",
}
FIGURES_SEEN: Words = {
    "en": "another image moves the answer by {image_effect:.2g}",
    "zh": "换一张图像，回答变化 {image_effect:.2g}",
}
SENTENCES: dict[str, Words] = {
    "nothing_asked": {"en": "no canary was asked: nothing is proved", "zh": "没有提问任何探针：什么也没有证明"},
    "no_answer": {"en": "no answer within {minutes} minutes", "zh": "{minutes} 分钟内没有回答"},
    "does_not_load": {"en": "the folder does not load: {error}", "zh": "文件夹无法加载：{error}"},
    "other_tokens": {
        "en": "prompts become other tokens than in training ({names}): template or processor",
        "zh": "提示词变成了与训练不同的词元（{names}）：模板或处理器不对",
    },
    "answers_differ": {
        "en": "answers differ from base + adapter (KL {kl:.4f} on {names})",
        "zh": "回答与基础模型加适配器不同（KL {kl:.4f}，{names}）",
    },
    "like_the_base": {
        "en": "answers like the base model (KL to the base {base:.2g}, to base + adapter {tuned:.2g})",
        "zh": "回答像基础模型（与基础模型的 KL 为 {base:.2g}，与基础模型加适配器为 {tuned:.2g}）",
    },
    "vision_not_asked": {
        "en": "no canary with an image was asked: vision is not proved",
        "zh": "没有提问带图像的探针：视觉没有得到证明",
    },
    "blind": {
        "en": "another image does not change the answer: vision is not in effect",
        "zh": "换一张图像，回答不变：视觉没有起作用",
    },
}


@dataclass(frozen=True)
class Answers:
    """One canary's log-probabilities from the folder, (A, V), and with the other images."""

    tokens: np.ndarray
    logprobs: np.ndarray
    other: np.ndarray | None


def check(subject: Subject, python: Path) -> Verdict:
    """Let ``python`` load the folder and answer the canaries; failed with the last line where it cannot."""
    if not subject.references.items:
        return Verdict.of([{"fault": "nothing_asked"}])
    with tempfile.TemporaryDirectory(prefix="medtune-") as scratch:
        request, answer = Path(scratch) / "request.json", Path(scratch) / "answer.npz"
        request.write_text(json.dumps(_request(subject)), encoding="utf-8")
        command = [str(python), str(Path(probe.__file__)), str(subject.folder), str(request), str(answer)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return Verdict.of([{"fault": "no_answer", "minutes": PATIENCE // 60}])
        if done.returncode:
            return Verdict.of([{"fault": "does_not_load", "error": _reason(done.stderr)}])
        with np.load(answer) as arrays:
            answers = {item.canary.id: _answers(arrays, item) for item in subject.references.items}
    figures = compare(subject.references.items, answers)
    return Verdict.of(faults(figures, sees=subject.base.sees), figures)


def _request(subject: Subject) -> list[dict[str, Any]]:
    cases = []
    for item in subject.references.items:
        case = {"messages": subject.references.messages(item.canary), "answer": item.answer}
        cases.append(case | {"id": item.canary.id, "images": [str(path) for path in item.canary.images]})
        if item.canary.other:
            other = [str(path) for path in item.canary.other]
            cases.append(case | {"id": item.canary.id + OTHER, "images": other})
    return cases


def _answers(arrays: Any, item: Reference) -> Answers:
    name = item.canary.id
    other = arrays[f"{name}{OTHER}/logprobs"] if item.canary.other else None
    return Answers(arrays[f"{name}/tokens"], arrays[f"{name}/logprobs"], other)


def _reason(stderr: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith(" ") and ("Error" in line or "rror:" in line)]
    return (errors or lines or ["?"])[-1][:300]


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Mean KL(p || q) over positions; log-probabilities (A, V)."""
    wide_p, wide_q = p.astype(np.float64), q.astype(np.float64)
    return float((np.exp(wide_p) * (wide_p - wide_q)).sum(-1).mean())


def compare(items: list[Reference], answers: dict[str, Answers]) -> dict[str, Any]:
    """The figures of one run over all canaries, at least one; of several the worst counts, and no number is worst."""
    pairs = [(item, answers[item.canary.id]) for item in items]
    tuned = [kl(item.tuned, answer.logprobs) for item, answer in pairs]
    base = [kl(item.base, answer.logprobs) for item, answer in pairs]
    adapter = [kl(item.tuned, item.base) for item, _ in pairs]
    flips = [(item.tuned.argmax(-1) != answer.logprobs.argmax(-1)) for item, answer in pairs]
    seen = [
        (kl(item.tuned, item.tuned_other), kl(answer.logprobs, answer.other))
        for item, answer in pairs
        if item.tuned_other is not None and answer.other is not None
    ]
    return {
        "canaries": len(pairs),
        "other_tokens": [item.canary.id for item, answer in pairs if not np.array_equal(item.tokens, answer.tokens)],
        "kl_to_tuned": float(np.max(tuned)),
        "kl_to_tuned_mean": float(np.mean(tuned)),
        "kl_to_base_mean": float(np.mean(base)),
        "kl_adapter_mean": float(np.mean(adapter)),
        "kl_limit_broken": [
            item.canary.id
            for (item, _), found, change in zip(pairs, tuned, adapter, strict=True)
            if not found <= max(KL_LIMIT, KL_SHARE * change)
        ],
        "flips": int(sum(flip.sum() for flip in flips)),
        "positions": int(sum(flip.size for flip in flips)),
        "images": len(seen),
        **({"image_effect_tuned": float(np.min([wanted for wanted, _ in seen]))} if seen else {}),
        **({"image_effect": float(np.min([found for _, found in seen]))} if seen else {}),
        "blind": sum(not (found > 0 and found >= SEES * wanted) for wanted, found in seen),
    }


def faults(figures: dict[str, Any], sees: bool = True) -> list[Fault]:
    """Why these figures refuse a folder; nothing when each is a number within its limits.

    Of a folder that ``sees``, its eyes must have been asked.
    """
    found: list[Fault] = []
    if figures["other_tokens"]:
        found.append({"fault": "other_tokens", "names": figures["other_tokens"]})
    if figures["kl_limit_broken"]:
        found.append({"fault": "answers_differ", "kl": figures["kl_to_tuned"], "names": figures["kl_limit_broken"]})
    if not figures["kl_to_base_mean"] > NEARER * figures["kl_to_tuned_mean"]:
        away = {"base": figures["kl_to_base_mean"], "tuned": figures["kl_to_tuned_mean"]}
        found.append({"fault": "like_the_base", **away})
    if sees and not figures["images"]:
        found.append({"fault": "vision_not_asked"})
    elif figures["blind"]:
        found.append({"fault": "blind"})
    return found
