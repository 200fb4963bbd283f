"""The success checklist: each line a question to the receipts, answered yes, no or not measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medtune import checks
from medtune.deployment.proof import sentences
from medtune.evaluation.gate import sentence
from medtune.files import Json
from medtune.i18n import Lang, tr
from medtune.receipt import TRAINING
from medtune.report import comparison, names
from medtune.report.facts import Facts
from medtune.report.numbers import Numbers
from medtune.run import CONFIG, METRICS, WEIGHTS


@dataclass(frozen=True)
class Sign:
    """A sign of success: passed is None where it was not measured."""

    text: str
    passed: bool | None
    evidence: str


Evidence = tuple[bool | None, str]  # whether it is so, and what says so


def signs(facts: Facts, lang: Lang) -> list[Sign]:
    """Ask every question."""
    write = Numbers(lang)
    questions: list[tuple[str, Callable[[Facts, Numbers], Evidence]]] = [
        ("The training took all its steps, or stopped early by its own rule", _steps),
        ("The validation loss fell", _fell),
        ("All checkpoints named in the receipt are on disk", _checkpoints),
        ("The adapter file is complete and is the one that was trained", _adapters),
        ("The configuration files are complete", _configured),
        ("The data set is the one that was trained on", _data),
        ("Better than the baseline in every dimension", _better),
        ("The gate of the evaluation is passed", _gate),
        ("Deployed to LM Studio", _deployed),
        ("The deployed model is proved to be the trained one", _proved),
    ]
    return [Sign(tr(text, lang), *ask(facts, write)) for text, ask in questions]


def _steps(facts: Facts, write: Numbers) -> Evidence:
    steps, planned, how = (facts.look(f"training.{key}") for key in ("steps", "config.iters", "stopped"))
    if steps is None:
        return None, f"{facts.history.step} / {facts.history.total_steps}" if facts.history.metrics else ""
    return steps == planned or how == "early_stop", f"{write.count(steps)} / {write.count(planned)}"


def _fell(facts: Facts, write: Numbers) -> Evidence:
    first, last = facts.look("training.val_loss.first"), facts.look("training.val_loss.last")
    if first is None or last is None:
        return None, ""
    return last < first, f"{write.loss(first)} → {write.loss(last)}"


def _checkpoints(facts: Facts, write: Numbers) -> Evidence:
    named = facts.look("training.checkpoints")
    if named is None:
        return None, ""
    there = [item for item in named if _bytes(facts, item["file"]) == item["bytes"]]
    return len(there) == len(named), f"{len(there)} / {len(named)}"


def _adapters(facts: Facts, write: Numbers) -> Evidence:
    stage, size = facts.stages["training"], _bytes(facts, WEIGHTS)
    if stage.receipt is None:
        return None, ""
    return size is not None and WEIGHTS not in stage.changed, write.size(size) if size else ""


def _configured(facts: Facts, write: Numbers) -> Evidence:
    wanted = (CONFIG, TRAINING, METRICS)
    lost = [name for name in wanted if _bytes(facts, name) is None]
    return not lost, ", ".join(lost or wanted)


def _data(facts: Facts, write: Numbers) -> Evidence:
    data, training = facts.stages["manifest"], facts.stages["training"]
    if data.receipt is None or training.receipt is None:
        return None, ""
    changed = [*data.changed, *(name for name in training.changed if name in training.receipt.inputs)]
    return not changed, ", ".join(changed)


def _better(facts: Facts, write: Numbers) -> Evidence:
    effects = comparison.effects(facts)
    if not effects:
        return None, ""
    shown = [f"{names.name(effect.name, write.lang)} {write.signed(effect.delta)}" for effect in effects]
    return all(effect.delta > 0 for effect in effects), ", ".join(shown)


def _gate(facts: Facts, write: Numbers) -> Evidence:
    gate: Json | None = facts.trusted("evaluation.gate")
    if gate is None:
        return None, ""
    said = [sentence(failure, write.lang) for failure in gate["failures"]]
    said += [f"{checks.name(kind, write.lang)}: {write.missing}" for kind in gate.get("unmeasured", [])]
    return gate["passed"], "; ".join(said)


def _deployed(facts: Facts, write: Numbers) -> Evidence:
    folder = facts.trusted("deployment.folder")
    if folder is None:
        return None, ""
    if facts.look("deployment.staged"):
        return False, tr("LM Studio was not found here: the model waits in {folder}", write.lang, folder=folder)
    return True, str(folder)


def _proved(facts: Facts, write: Numbers) -> Evidence:
    proofs = facts.trusted("deployment.proofs")
    if not proofs:
        return None, ""
    done = [proof for proof in proofs if proof["verdict"] != "skipped"]
    passed = [proof for proof in done if proof["verdict"] == "passed"]
    evidence = tr("{passed} of {done} levels passed", write.lang, passed=len(passed), done=len(done))
    if len(done) < len(proofs):
        evidence += tr(", {skipped} not run here", write.lang, skipped=len(proofs) - len(done))
    for proof in done:
        if proof["verdict"] != "passed":
            evidence += (
                f"; {sentences.name(proof, write.lang)}: {sentences.note(proof, write.lang, facts.command('prove'))}"
            )
    return (len(passed) == len(done)) if done else None, evidence


def _bytes(facts: Facts, name: str) -> int | None:
    path = facts.run / name
    return path.stat().st_size if path.exists() else None
