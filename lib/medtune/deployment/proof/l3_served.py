"""L3: the running LM Studio lists the model with vision, loads it, and gives the tuned model's answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from medtune import lmstudio
from medtune.deployment import client
from medtune.deployment.client import NotRunning, Server
from medtune.deployment.proof import NOT_INSTALLED, Fault, Subject, Verdict
from medtune.i18n import Words

if TYPE_CHECKING:
    from medtune.deployment.proof.references import References

NAME: Words = {"en": "LM Studio itself", "zh": "LM Studio 本身"}
AFTER_COMMIT = True
FIGURES: Words = {
    "en": "{like_tuned} of {telling} telling answers like base + adapter's",
    "zh": "{telling} 个能区分的回答中，{like_tuned} 个与基础模型加适配器一致",
}
SENTENCES: dict[str, Words] = {
    "not_installed": NOT_INSTALLED,
    "no_lms": {
        "en": "the lms command is missing; start LM Studio once, then `make prove`",
        "zh": "没有 lms 命令；请先启动一次 LM Studio，再运行 `make prove`",
    },
    "server_off": {
        "en": "LM Studio's server is not running; `{lms} server start`, then `make prove`",
        "zh": "LM Studio 的服务没有运行；请先 `{lms} server start`，再运行 `make prove`",
    },
    "not_listed": {
        "en": "LM Studio does not list {key} yet; restart the app, then `make prove`",
        "zh": "LM Studio 还没有列出 {key}；请重启应用，再运行 `make prove`",
    },
    "no_answer": {"en": "{url}: no answer ({error})", "zh": "{url}：没有回答（{error}）"},
    "nothing_tells": {
        "en": "base and base + adapter answer every canary alike: the app's answers cannot tell them apart",
        "zh": "基础模型与基础模型加适配器对每个探针的回答都相同：应用的回答无法区分二者",
    },
    "not_mlx_vision": {
        "en": "LM Studio does not list it as an MLX model with vision",
        "zh": "LM Studio 没有把它列为带视觉的 MLX 模型",
    },
    "not_mlx": {
        "en": "LM Studio does not list it as an MLX model",
        "zh": "LM Studio 没有把它列为 MLX 模型",
    },
    "not_the_tuned": {
        "en": "of {n} telling answers {tuned} follow base + adapter's over half of their length or more, and more than "
        "half must; {base} are nearer to the base's",
        "zh": "{n} 个能区分的回答中，{tuned} 个与基础模型加适配器的回答至少一半相同，须超过半数；{base} 个更像基础模型",
    },
}
IDENTIFIER = "medtune-verify"
MLX_FORMATS = ("mlx", "safetensors")  # the API's word and that of `lms ls`; PyTorch's is torch_safetensors
FOLLOWS = 0.5  # share of an answer's beginning that must be the tuned model's; greedy runs part after some tokens
LOOKS, PAUSE = 5, 2.0  # how often to look for a new folder, seconds between; the index may lag


def check(subject: Subject) -> Verdict:
    """Skipped where the app, its command or its server is not there, or does not see the folder yet."""
    if subject.home is None:
        return Verdict.skipped("not_installed")
    lms = lmstudio.Lms(subject.home)
    if not lms.installed:
        return Verdict.skipped("no_lms")
    status = lms.json("server", "status")
    if not (isinstance(status, dict) and status.get("running")):
        return Verdict.skipped("server_off", lms=str(lms.program))
    entry = _listed(lms, subject.key)
    if entry is None:
        return Verdict.skipped("not_listed", key=subject.key)
    try:
        return _asked(lms, Server.lmstudio(status.get("port"), remote=subject.remote), entry, subject)
    except NotRunning as error:
        return Verdict.skipped("no_answer", url=error.url, error=error.reason)


def _asked(lms: lmstudio.Lms, server: Server, entry: dict[str, Any], subject: Subject) -> Verdict:
    """What the app says of the model ``entry``, then what it answers."""
    sees = subject.base.sees
    others = _not_mlx_vision([entry, *_described(server, entry["modelKey"])], sees)
    if others:
        return Verdict.of([{"fault": "not_mlx_vision" if sees else "not_mlx", "listed": others}])
    with _loaded(lms, entry["modelKey"]):
        figures = ask(server, IDENTIFIER, subject.references)
    return Verdict.of(faults(figures), figures) if figures["telling"] else Verdict.skipped("nothing_tells", figures)


def _listed(lms: lmstudio.Lms, key: str) -> dict[str, Any] | None:
    """What `lms ls` says of the folder; the app indexes a new one with some delay, and may spell it in lower case."""
    wanted = key.lower().split("/")
    for look in range(LOOKS):
        for entry in _entries(lms.json("ls")):
            path = str(entry.get("path", "")).replace("\\", "/").lower().rstrip("/")
            if path.split("/")[-2:] == wanted and isinstance(entry.get("modelKey"), str):
                return entry
        if look + 1 < LOOKS:
            time.sleep(PAUSE)
    return None


def _entries(listed: Any) -> list[dict[str, Any]]:
    """The models of a list, whatever else it holds."""
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _described(server: Server, key: str) -> list[dict[str, Any]]:
    """What the server's own list says of the model."""
    return [
        entry
        for entry in _entries(server.described())
        if key.lower() in (str(entry.get(field)).lower() for field in ("key", "id"))
    ]


def _not_mlx_vision(entries: list[dict[str, Any]], sees: bool = True) -> list[dict[str, Any]]:
    """Those entries that deny MLX or, of a model that ``sees``, vision; `lms ls` and the API's versions differ."""

    def denies(entry: dict[str, Any]) -> bool:
        kind = entry.get("format") or entry.get("compatibility_type") or "mlx"
        capabilities = entry.get("capabilities")
        vision = capabilities.get("vision") if isinstance(capabilities, dict) else None
        seen = [entry.get("vision"), vision, {"vlm": True, "llm": False}.get(entry.get("type", ""))]
        return str(kind).lower() not in MLX_FORMATS or (sees and False in seen and True not in seen)

    return [entry for entry in entries if denies(entry)]


@contextmanager
def _loaded(lms: lmstudio.Lms, key: str) -> Iterator[None]:
    lms.run("load", key, "--exact", "--identifier", IDENTIFIER, "--context-length", "4096", "--ttl", "300", "--yes")
    try:
        yield
    finally:
        lms.run("unload", IDENTIFIER)


def ask(server: Server, model: str, references: References) -> dict[str, Any]:
    """How far each answer goes along with the tuned and with the base's answer, as shares of the longer one.

    It follows the tuned model where that share is at least FOLLOWS and larger than the base's.
    """
    from medtune.deployment.proof.references import ANSWER

    rows = []
    for item in references.items:
        messages = client.with_images(references.messages(item.canary), item.canary.images)
        answer = server.complete(model, messages, ANSWER)
        tuned, base = _agreement(answer, item.tuned_text), _agreement(answer, item.base_text)
        rows.append({"id": item.canary.id, "answer": answer, "tuned": tuned, "base": base})
    telling = [row for row, item in zip(rows, references.items, strict=True) if item.tuned_text != item.base_text]
    return {
        "asked": len(rows),
        "telling": len(telling),
        "like_tuned": sum(row["tuned"] >= FOLLOWS and row["tuned"] > row["base"] for row in telling),
        "like_base": sum(row["base"] > row["tuned"] for row in telling),
        "agreement": sum(row["tuned"] for row in rows) / max(1, len(rows)),
        "answers": rows,
    }


def _agreement(answer: str, reference: str) -> float:
    """Length of the common beginning over that of the longer text; 1 of two empty ones."""
    answer, reference = answer.strip(), reference.strip()
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(answer, reference, strict=False)))
    return common / max(len(answer), len(reference)) if answer or reference else 1.0


def faults(figures: dict[str, Any]) -> list[Fault]:
    """Refused unless more than half of the telling answers follow the tuned model."""
    if figures["like_tuned"] > figures["telling"] / 2:
        return []
    told = {"n": figures["telling"], "base": figures["like_base"], "tuned": figures["like_tuned"]}
    return [{"fault": "not_the_tuned", **told}]
