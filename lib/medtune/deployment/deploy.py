"""Adapters -> a proved folder in LM Studio: the steps of a deploy in their order."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medtune import files, lmstudio
from medtune.deployment import deltas, folder, fuse, modelcard, preset, proof, template, transaction
from medtune.deployment.proof import Subject, Verdict, canaries, references, sentences
from medtune.deployment.transaction import Place
from medtune.errors import UserError
from medtune.evaluation import gate
from medtune.i18n import tr
from medtune.model import libraries, templates
from medtune.model.base import Base
from medtune.model.tensors import Weights
from medtune.receipt import Receipt
from medtune.run import PREDICTIONS, WEIGHTS, Run
from medtune.schemas import DeployConfig

SPARE = 64 * 2**20  # bytes beside the weights: tokenizer, card, room to breathe


@dataclass(frozen=True)
class Deployment:
    """What a deploy will write, known before anything is written."""

    run: Run
    base: Base
    config: DeployConfig
    weights: Weights
    changes: list[fuse.Change]
    chat_template: str
    system_prompt: str
    home: Path | None
    place: Place
    remote: bool = False  # whether the proof may ask an LM Studio on another machine

    @property
    def nbytes(self) -> int:
        """Upper bound of the disk needed; linked shards need none."""
        replaced = sum(change.matrix.nbytes for change in self.changes)
        written = sum(entry.nbytes for change in self.changes for entry in change.entries)
        return self.weights.nbytes - replaced + written + SPARE

    @property
    def matrices(self) -> str:
        """For people: ``24 bf16, 4 8bit``."""
        return ", ".join(f"{n} {label}" for label, n in Counter(c.form.label for c in self.changes).most_common())

    @property
    def key(self) -> str:
        """`<publisher>/<name>`, as LM Studio shows it."""
        return f"{self.place.publisher}/{self.place.name}"

    def lines(self) -> list[str]:
        """For the screen, before it is done."""
        kept = [change.fidelity for change in self.changes]
        said = [
            tr("base model: {name}", name=self.base.name),
            tr(
                "{n} adapted matrices, stored as {matrices}: share of the change kept ≥ {share:.3f}, cosine ≥ "
                "{cosine:.3f}, change of the weights {least:.2%} to {most:.2%}",
                n=len(kept),
                matrices=self.matrices,
                share=min(one.share for one in kept),
                cosine=min(one.cosine for one in kept),
                least=min(one.relative for one in kept),
                most=max(one.relative for one in kept),
            ),
            tr("into {folder} ({size})", folder=self.place.folder, size=files.megabytes(self.nbytes - SPARE)),
        ]
        if self.home is None:
            said.append(tr("LM Studio is not installed here: the folder is made there for you to move"))
        elif stale := lmstudio.remembered_settings(self.home, self.place.publisher, self.place.name):
            said.append(
                tr("warning: LM Studio remembers settings for this name ({path}) and will apply them", path=stale)
            )
        return said

    def advice(self) -> list[str]:
        """For the screen, after it is done: what to click and what to ask first."""
        at = self.place.folder
        server = "mlx_vlm.server" if self.base.sees else "mlx_lm.server"
        serve = f"{sys.executable} -m {server} --host 127.0.0.1 --model {at}"  # its own choice is every network
        done = (
            tr("deployed: {folder}", folder=at)
            if self.home
            else tr("made: {folder}; copy it to ~/.lmstudio/models/{key}", folder=at, key=self.key)
        )
        return [
            done,
            tr(
                "LM Studio: My Models, {key}, Chat; choose the preset {name} in the sidebar",
                key=self.key,
                name=self.place.name,
            )
            + (tr("; drop an image in") if self.base.sees else ""),
            tr("first prompts: {prompts}", prompts=" / ".join(canaries.TEXTS[:3])),
            tr("without LM Studio: {command}", command=serve),
        ]


def plan(run: Run, base: Base, config: DeployConfig, *, remote: bool = False) -> Deployment:
    """Read base and adapters and decide everything; adapters that change nothing are refused.

    ``remote``: the proof may ask an LM Studio on another machine.
    """
    folder.check(base)
    weights = Weights.open(base.path)
    changes = fuse.plan(weights, base.quantization, deltas.read(run.path), config.precision)
    if not any(change.fidelity.relative > 0 for change in changes):
        raise UserError(
            tr("{path}: the adapters change nothing: as they were before any training; train further", path=run.weights)
        )
    prompt = _system_prompt(run, config.system_prompt)
    with templates.tried(base.chat_template, base.path), libraries.reading(base.path):
        chat_template = template.with_system_prompt(base.chat_template, prompt)
    home, place = lmstudio.home(config.home), Place.of(run.path, config)
    return Deployment(run, base, config, weights, changes, chat_template, prompt, home, place, remote)


def check_gate(run: Run, allowed: bool) -> None:
    """Refuse a run whose evaluation did not pass its gate, unless that is ``allowed``; one not evaluated may pass."""
    found: files.Json = run.evaluation.results["gate"] if run.evaluation else {"passed": True}
    if not found["passed"] and not allowed:
        raise UserError(
            tr(
                "{path}: the evaluation failed its gate ({failures}); train further, or deploy it all the same with "
                "--allow-failed-gate",
                path=run.path,
                failures="; ".join(map(gate.sentence, found["failures"])),
            )
        )


def _system_prompt(run: Run, wanted: str) -> str:
    """The system prompt to build in; one that was not trained with is refused."""
    trained = run.system_prompt
    if wanted in ("", "training"):
        return trained if wanted else ""
    if wanted != trained:
        raise UserError(
            tr(
                "system_prompt: not the one of the training ({trained!r}); write training, or train with this one",
                trained=trained,
            )
        )
    return wanted


def deploy(plan: Deployment, say: Callable[[str], None]) -> dict[str, Any]:
    """Fuse, prove, put in place, prove again; raises UserError, with the old version in place, when a proof fails."""
    at, base = plan.place, plan.base
    with transaction.locked(at):
        with transaction.staging(at, plan.nbytes) as staged:
            fuse.write(plan.weights, plan.changes, staged)
            quantization = fuse.quantization_after(base.quantization, plan.changes)
            folder.write(base, staged, template=plan.chat_template, quantization=quantization, card=_card(plan))
            subject = _subject(plan, staged)
            verdicts = _prove(proof.run(subject), say, plan.run)
            listing = folder.listing(staged)
            transaction.commit(at)
        subject = replace(subject, folder=at.folder)
        try:
            verdicts += _prove(proof.run(subject, after_commit=True), say, plan.run)
        except BaseException:  # Ctrl-C too: what is not proved does not stay
            transaction.withdraw(at)
            raise
        say(_offer_preset(plan))
    return _results(plan, listing, verdicts)


def prove(plan: Deployment, say: Callable[[str], None]) -> Iterator[Verdict]:
    """Prove the folder that is in place once more, now perhaps on levels that were skipped; changes nothing.

    Yields each verdict when it is found, the failed one (see ``refuse``) last.
    """
    if not plan.place.folder.exists():
        raise UserError(
            tr(
                "{folder}: nothing is deployed there; run `{command}` first",
                folder=plan.place.folder,
                command=plan.run.command("deploy"),
            )
        )
    subject = _subject(plan, plan.place.folder)
    for after_commit in (False, True):
        for verdict in proof.run(subject, after_commit=after_commit):
            say(sentences.line(verdict.facts, prove=plan.run.command("prove")))
            yield verdict
            if verdict.verdict == "failed":
                return


def refuse(verdict: Verdict) -> None:
    """A failed verdict is a UserError."""
    if verdict.verdict == "failed":
        name, note = sentences.name(verdict.facts), sentences.note(verdict.facts)
        raise UserError(tr("refused at {level} ({name}): {note}", level=verdict.level, name=name, note=note))


def check_unchanged(receipt: Receipt, run: Run) -> None:
    """Refuse a folder whose files are no longer those its receipt names; ones that are the base's own L0 compares."""
    ours = {Path(name): digest for name, digest in receipt.outputs.items() if Path(name).name not in folder.VERBATIM}
    changed = [path for path, digest in ours.items() if files.lost(path, digest)]
    if changed:
        raise UserError(
            tr(
                "{folder}: changed since it was deployed ({names}); run `{command}` again",
                folder=receipt.results["folder"],
                command=run.command("deploy"),
                names=", ".join(path.name for path in changed),
            )
        )


def _prove(verdicts: Iterable[Verdict], say: Callable[[str], None], run: Run) -> list[Verdict]:
    """Say each verdict as it comes; the first failed one is a UserError."""
    seen = []
    for verdict in verdicts:
        say(sentences.line(verdict.facts, prove=run.command("prove")))
        seen.append(verdict)
        refuse(verdict)
    return seen


def _offer_preset(plan: Deployment) -> str:
    """Write the preset beside LM Studio's own and say where; one that a person made or changed stays as it is."""
    home, name = plan.home or plan.run.path, plan.place.name
    if preset.write(home, name, plan.system_prompt, plan.place.work):
        return tr("preset: {path}", path=preset.path(home, name))
    return tr("preset: {path} is your own and stays as it is", path=preset.path(home, name))


def _subject(plan: Deployment, staged: Path) -> Subject:
    run = plan.run
    pictures = run.path / "canaries"
    asked = canaries.built_in(pictures, run.system_prompt, plan.base.sees)
    asked += canaries.from_predictions(run.path / PREDICTIONS, pictures)
    recorded = references.record(plan.base, run.path, asked, plan.system_prompt)
    return Subject(
        folder=staged,
        base=plan.base,
        deltas=[change.delta for change in plan.changes],
        template=plan.chat_template,
        references=recorded,
        key=plan.key,
        home=plan.home,
        remote=plan.remote,
    )


def _card(plan: Deployment) -> str:
    run = plan.run
    return modelcard.write(plan.key, run.training, run.evaluation, run.manifest, plan.matrices, plan.base.sees)


def _results(plan: Deployment, listing: list[dict[str, Any]], verdicts: list[Verdict]) -> dict[str, Any]:
    at = plan.place
    return {
        "folder": str(at.folder),
        "publisher": at.publisher,
        "name": at.name,
        "staged": plan.home is None,
        "bytes": sum(file["bytes"] for file in listing),
        "files": listing,
        "precision": plan.config.precision,
        "layers": [change.facts for change in plan.changes],
        "untouched": next(v.figures["untouched"] for v in verdicts if "untouched" in v.figures),
        "proofs": [verdict.facts for verdict in verdicts],
        "previous": str(at.previous) if at.previous.exists() else None,
        "lmstudio": {"installed": plan.home is not None, "home": str(plan.home) if plan.home else None},
    }


def inputs(run: Run, base: Base, config: DeployConfig) -> dict[str, str]:
    """What decides a deploy: the adapters, the base, and where the folder goes (LM Studio may be installed later)."""
    place = str(Place.of(run.path, config).folder.absolute())
    return {
        WEIGHTS: files.digest(run.weights),
        "base_model": base.weights_hash,
        "folder": files.hash_of(place),
    }
