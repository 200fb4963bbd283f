"""L3: the running LM Studio lists the model with vision, loads it, and gives the tuned model's answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from medtune import lmstudio
from medtune.deployment import client
from medtune.deployment.client import NotRunning, Server
from medtune.deployment.proof import Subject
from medtune.deployment.proof.references import ANSWER, References
from medtune.i18n import tr

NAME = "LM Studio itself"
AFTER_COMMIT = True
IDENTIFIER = "medtune-verify"
MLX_FORMATS = ("mlx", "safetensors")  # the API's word and that of `lms ls`; PyTorch's is torch_safetensors
LOOKS, PAUSE = 5, 2.0  # how often to look for a new folder, seconds between; the index may lag


def check(subject: Subject) -> tuple[str, dict[str, Any], str]:
    """Skipped where the app, its command or its server is not there, or does not see the folder yet."""
    if subject.home is None:
        return "skipped", {}, tr("LM Studio is not installed here")
    lms = lmstudio.Lms(subject.home)
    if not lms.installed:
        return "skipped", {}, tr("the lms command is missing; start LM Studio once, then `make prove`")
    status = lms.json("server", "status")
    if not status.get("running"):
        return (
            "skipped",
            {},
            tr("LM Studio's server is not running; `{lms} server start`, then `make prove`", lms=lms.program),
        )
    entry = _listed(lms, subject.key)
    if entry is None:
        return (
            "skipped",
            {},
            tr("LM Studio does not list {key} yet; restart the app, then `make prove`", key=subject.key),
        )
    server = Server.lmstudio(status.get("port"))
    try:
        blind = _not_mlx_vision([entry, *_described(server, entry["modelKey"])])
        if blind:
            return "failed", {"listed": blind}, tr("LM Studio does not list it as an MLX model with vision")
        with _loaded(lms, entry["modelKey"]):
            figures = ask(server, IDENTIFIER, subject.references)
    except NotRunning as error:
        return "skipped", {}, str(error)
    problems = faults(figures)
    return ("failed" if problems else "passed"), figures, "; ".join(problems)


def _listed(lms: lmstudio.Lms, key: str) -> dict[str, Any] | None:
    """What `lms ls` says of the folder; the app indexes a new one with some delay."""
    for look in range(LOOKS):
        for entry in lms.json("ls"):
            if str(entry.get("path", "")).replace("\\", "/").lower().rstrip("/").endswith(key):
                return entry
        if look + 1 < LOOKS:
            time.sleep(PAUSE)
    return None


def _described(server: Server, key: str) -> list[dict[str, Any]]:
    """What the server's own list says of the model."""
    return [entry for entry in server.described() if key in (entry.get("key"), entry.get("id"))]


def _not_mlx_vision(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those entries that deny MLX or vision; the fields differ between `lms ls` and the two versions of the API."""

    def denies(entry: dict[str, Any]) -> bool:
        kind = entry.get("format") or entry.get("compatibility_type") or "mlx"
        capabilities = entry.get("capabilities")
        vision = capabilities.get("vision") if isinstance(capabilities, dict) else None
        seen = [entry.get("vision"), vision, {"vlm": True, "llm": False}.get(entry.get("type", ""))]
        return str(kind).lower() not in MLX_FORMATS or (False in seen and True not in seen)

    return [entry for entry in entries if denies(entry)]


@contextmanager
def _loaded(lms: lmstudio.Lms, key: str) -> Iterator[None]:
    lms.run("load", key, "--exact", "--identifier", IDENTIFIER, "--context-length", "4096", "--ttl", "300", "--yes")
    try:
        yield
    finally:
        lms.run("unload", IDENTIFIER)


def ask(server: Server, model: str, references: References) -> dict[str, Any]:
    """How far each answer goes along with the tuned and with the base's answer, as shares of their lengths."""
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
        "like_tuned": sum(row["tuned"] > row["base"] for row in telling),
        "like_base": sum(row["base"] > row["tuned"] for row in telling),
        "agreement": sum(row["tuned"] for row in rows) / max(1, len(rows)),
        "answers": rows,
    }


def _agreement(answer: str, reference: str) -> float:
    """Length of the common beginning over the reference's; two greedy runs of a large model part after some tokens."""
    answer, reference = answer.strip(), reference.strip()
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(answer, reference, strict=False)))
    return common / len(reference) if reference else float(not answer)


def faults(figures: dict[str, Any]) -> list[str]:
    """Refused when more of the telling answers follow the base than the tuned model."""
    if figures["telling"] and figures["like_base"] >= figures["like_tuned"]:
        return [
            tr("of {n} telling answers {base} are like the base's and {tuned} like base + adapter's",
               n=figures["telling"], base=figures["like_base"], tuned=figures["like_tuned"])
        ]  # fmt: skip
    return []
