"""What to do next: each rule reads the receipts and says at most a few sentences; no rule, no advice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from medtune import checks
from medtune.deployment.proof import sentences
from medtune.evaluation.gate import sentence
from medtune.i18n import Lang, tr
from medtune.metrics import Curve
from medtune.records import DIMENSIONS
from medtune.report import comparison, names
from medtune.report.facts import STAGES, Facts
from medtune.report.numbers import Numbers

FALLING = 0.01  # relative fall of the validation loss over the last quarter that promises more
OVERFIT = 0.02  # relative rise above the best validation loss that tells of overfitting
SHARE_GAP = 0.10  # a share of the loss this far from the wanted one is worth a sentence
TRUNCATED = 0.02  # share of answers cut at max_tokens
PADDED = 0.25  # share of padding tokens in a step
REJECTED = 0.05  # share of records that the preparation refused
WEAK_CHECK = 0.6  # a kind of check met this rarely names what to add data for


@dataclass(frozen=True)
class Speaker:
    """Puts sentences and figures into the report's language."""

    lang: Lang

    @property
    def write(self) -> Numbers:
        """The figures of the language."""
        return Numbers(self.lang)

    def __call__(self, sentence: str, **values: object) -> str:
        """One sentence with its figures."""
        return tr(sentence, self.lang, **values)


def advice(facts: Facts, lang: Lang) -> list[str]:
    """All advice that follows from the facts, the most pressing first."""
    rules = (_stages, _gate, _length, _evidence, _shares, _answers, _checks, _proofs, _data)
    say = Speaker(lang)
    return [text for rule in rules for text in rule(facts, say)]


def _stages(facts: Facts, say: Speaker) -> Iterator[str]:
    for name in STAGES:
        stage = facts.stages[name]
        if stage.state == "missing":
            yield say("Not measured yet: run `{command}`.", command=facts.command(stage.verb))
        elif stage.state == "stale":
            shown = ", ".join(f"`{item}`" for item in stage.changed[:3])
            yield say(
                "`{name}.json` speaks of files that have changed since ({files}): run `{command}`.",
                name=name,
                files=shown,
                command=facts.command(stage.verb),
            )


def _gate(facts: Facts, say: Speaker) -> Iterator[str]:
    wanted = facts.trusted("evaluation.config.gate") or {}
    for effect in comparison.effects(facts):
        if effect.delta <= wanted.get(effect.name, float("-inf")):  # where only the interval fails, _evidence speaks
            yield say(
                "The gate failed for {dim} ({delta} against {wanted} wanted): add records of this dimension, or raise "
                "`objective.priorities.{key}.weight`, and train again.",
                dim=names.name(effect.name, say.lang),
                delta=say.write.signed(effect.delta),
                wanted=say.write.signed(wanted[effect.name]),
                key=effect.name,
            )
        elif effect.finding == "worse":
            yield say(
                "{dim} became worse, which the interval confirms: look at its answers first.",
                dim=names.name(effect.name, say.lang),
            )
    for failure in facts.trusted("evaluation.gate.failures") or []:
        if not isinstance(failure, str) and failure["kind"] == "pass_rate":
            yield say(
                "The gate failed: {reason}. Add training records that satisfy this check.",
                reason=sentence(failure, say.lang),
            )


def _length(facts: Facts, say: Speaker) -> Iterator[str]:
    curve = facts.history.curve("valid", "loss")
    steps, iters = facts.look("training.steps"), facts.look("training.config.iters")
    if len(curve) < 4 or not steps:
        return
    best_step, best = min(curve, key=lambda point: point[1])
    last = curve[-1][1]
    if last > best * (1 + OVERFIT):
        yield say(
            "The validation loss was lowest at step {best} and rose by {rise} until the end: fewer steps will do "
            '(`SET="iters={best}"`), or `select.patience` stops in time; more data moves the turning point.',
            best=best_step,
            rise=say.write.percent(last / best - 1),
        )
    elif _recent_fall(curve) > FALLING:
        more = round(1.5 * (iters or steps))
        yield say(
            "The validation loss still fell by {fall} over the last quarter: more steps are worth trying "
            "(`{command}`).",
            fall=say.write.percent(_recent_fall(curve)),
            command=facts.longer(more),
        )


def _recent_fall(curve: Curve) -> float:
    """Relative fall of a curve over the last quarter of its steps."""
    begin = curve[-1][0] - (curve[-1][0] - curve[0][0]) / 4
    before = [value for step, value in curve if step <= begin][-1]
    return 1 - curve[-1][1] / before if before else 0.0


def _evidence(facts: Facts, say: Speaker) -> Iterator[str]:
    for effect in comparison.effects(facts):
        if effect.finding == "undecided" and effect.needed is not None:
            yield say(
                "{dim}: {n} test items can show a difference of about {detectable}, the one found is {delta}; about "
                "{needed} items would decide it.",
                dim=names.name(effect.name, say.lang),
                n=effect.n,
                detectable=say.write.write(effect.detectable, "score"),
                delta=say.write.signed(effect.delta),
                needed=say.write.count(effect.needed),
            )


def _shares(facts: Facts, say: Speaker) -> Iterator[str]:
    nominal, effective = facts.look("training.share.nominal"), facts.look("training.share.effective")
    if not nominal or not effective or facts.look("training.config.objective.share") != "examples":
        return
    gaps = {dim: effective[dim] - nominal[dim] for dim in DIMENSIONS if dim in nominal and dim in effective}
    dim = max(gaps, key=lambda name: abs(gaps[name]))
    if abs(gaps[dim]) >= SHARE_GAP:
        yield say(
            "{dim} has {effective} of the loss where {nominal} of the examples are nominal, since the rewards multiply "
            "the weights: `objective.share: loss` makes the loss itself follow the priorities.",
            dim=names.name(dim, say.lang),
            effective=say.write.percent(effective[dim]),
            nominal=say.write.percent(nominal[dim]),
        )


def _answers(facts: Facts, say: Speaker) -> Iterator[str]:
    cut, asked = facts.trusted("evaluation.truncated.tuned"), facts.trusted("evaluation.items")
    if cut and asked and cut / asked > TRUNCATED:
        yield say(
            "{cut} of {all} answers of the tuned model were cut at {limit} tokens: raise `max_tokens` in eval.yaml and "
            "measure again.",
            cut=cut,
            all=asked,
            limit=facts.look("evaluation.config.max_tokens"),
        )
    regressed = facts.trusted("evaluation.migration.regressed")
    if regressed:
        yield say(
            "{n} test answers that were right before are wrong now: read them first, with "
            "`tools/test_v2_model.py --review`.",
            n=regressed,
        )


def _checks(facts: Facts, say: Speaker) -> Iterator[str]:
    measured = facts.trusted("evaluation.checks") or {}
    weak = [(kind, item) for kind, item in measured.items() if item.get("n") and item["tuned"] < WEAK_CHECK]
    for kind, item in sorted(weak, key=lambda pair: pair[1]["tuned"])[:2]:
        yield say(
            'The tuned model meets the check "{check}" in {rate} of {n} answers: this is where more training records '
            "help most.",
            check=checks.name(kind, say.lang),
            rate=say.write.percent(item["tuned"]),
            n=item["n"],
        )


def _proofs(facts: Facts, say: Speaker) -> Iterator[str]:
    proofs = facts.trusted("deployment.proofs") or []
    for proof in proofs:
        if proof["verdict"] == "failed":
            yield say(
                "The proof `{name}` failed: do not use this folder; run `{command}` again.",
                name=sentences.name(proof, say.lang),
                command=facts.command("deploy"),
            )
    if facts.trusted("deployment.staged"):
        yield say(
            "Install LM Studio on this machine, start it once, then run `{command}`.", command=facts.command("deploy")
        )


def _data(facts: Facts, say: Speaker) -> Iterator[str]:
    padding = [row["padding_fraction"] for row in facts.history.of("train") if row.get("padding_fraction") is not None]
    if padding and sum(padding) / len(padding) > PADDED:
        yield say(
            "{share} of the tokens of a step were padding: a larger batch of similar lengths, or fewer very long "
            "records, trains faster.",
            share=say.write.percent(sum(padding) / len(padding)),
        )
    rejected = facts.look("manifest.rejected.total") or 0
    kept = sum(split.get("records", 0) for split in (facts.look("manifest.splits") or {}).values())
    if rejected and rejected / (rejected + kept) > REJECTED:
        yield say(
            "{n} records ({share}) were rejected: `rejected.jsonl` names the reason for each.",
            n=say.write.count(rejected),
            share=say.write.percent(rejected / (rejected + kept)),
        )
