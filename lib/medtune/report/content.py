"""What each section says, as plain values: tables, sentences and cases drawn from the facts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medtune import checks, files
from medtune.files import Json
from medtune.i18n import Lang, tr
from medtune.records import DIMENSIONS, IMAGE_MARKER
from medtune.report import comparison, names
from medtune.report.comparison import Effect
from medtune.report.facts import STAGES, Facts
from medtune.report.numbers import Numbers
from medtune.run import CONFIG, METRICS, PREDICTIONS, REVIEWS, WEIGHTS

LOSS_ROWS = 12  # sampled rows of the loss table, after the first reports
FIRST_REPORTS = 3  # training losses shown before the first validation
FINDINGS = {
    "better": "{dim} improved by {delta} (95% interval {low} to {high}, n = {n}).",
    "worse": "{dim} became worse by {delta} (95% interval {low} to {high}, n = {n}).",
    "undecided": "{dim}: {delta} is within what chance explains (95% interval {low} to {high}, n = {n}).",
}
CHECK_CHANGE = 0.05  # a kind of check that changed by less is not worth a sentence


@dataclass(frozen=True)
class LossRow:
    """One row of the loss table; None where that step did not report it."""

    step: int
    train: float | None
    valid: float | None
    dims: dict[str, float | None]
    best: bool


@dataclass(frozen=True)
class File:
    """One file of the run folder."""

    name: str
    bytes: int
    what: str


@dataclass(frozen=True)
class Exchange:
    """One question with both answers; ``expect`` is what a good one has, or the reference."""

    question: str
    expect: str
    baseline: str
    tuned: str
    checks: dict[str, Json]
    image: Path | None
    figure: str  # the name of its picture among the report's figures, or empty


def drop(facts: Facts) -> float | None:
    """Relative fall of the validation loss from the first to the best, 0..1."""
    first, best = facts.look("training.val_loss.first"), facts.look("training.val_loss.best")
    return None if not first or best is None else 1 - best / first


def dimension_losses(facts: Facts) -> list[tuple[str, float, float]]:
    """(dimension, first, best validation loss) where both were measured."""
    found = [
        (dim, *(facts.look(f"training.val_loss_by_dim.{k}.{dim}") for k in ("first", "best"))) for dim in DIMENSIONS
    ]
    return [(dim, first, best) for dim, first, best in found if first and best is not None]


def effects(facts: Facts) -> list[Effect]:
    """The dimensions, then the whole."""
    whole = comparison.overall(facts)
    return [*comparison.effects(facts), *([whole] if whole else [])]


def loss_table(facts: Facts) -> list[LossRow]:
    """The first training reports, then the validations, thinned evenly; the best one is always there."""
    history = facts.history
    train, valid = dict(history.curve("train", "loss")), dict(history.curve("valid", "loss"))
    by_dim = {dim: dict(history.curve("valid", f"loss_by_dim.{dim}")) for dim in DIMENSIONS}
    best = history.best["step"] if history.best else None
    steps = {*sorted(train)[:FIRST_REPORTS], *_sampled(sorted(valid), LOSS_ROWS), *([best] if best is not None else [])}
    if train:
        steps.add(max(train))
    dims = {step: {dim: by_dim[dim].get(step) for dim in DIMENSIONS} for step in steps}
    return [LossRow(step, train.get(step), valid.get(step), dims[step], step == best) for step in sorted(steps)]


def _sampled(values: list[int], most: int) -> list[int]:
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def files_of(facts: Facts, lang: Lang) -> list[File]:
    """The files of the run folder, with what each is for."""
    losses = {item["file"]: item.get("val_loss") for item in facts.look("training.checkpoints") or []}
    paths = sorted(path for path in facts.run.iterdir() if path.is_file() and not path.name.startswith("."))
    return [File(path.name, path.stat().st_size, _what(path.name, losses, lang)) for path in paths]


def _what(name: str, losses: dict[str, float | None], lang: Lang) -> str:
    known = {
        WEIGHTS: tr("the adapters: the result of the training", lang),
        CONFIG: tr("how the adapters are attached", lang),
        METRICS: tr("every report and validation of the training", lang),
        PREDICTIONS: tr("every answer of the evaluation", lang),
        REVIEWS: tr("judgements by people", lang),
        **{f"{stage}.json": tr("receipt", lang) for stage in STAGES},
    }
    if name.endswith("_adapters.safetensors"):
        loss = losses.get(name)
        return tr("checkpoint", lang) + (f", {tr('validation loss', lang)} {loss:.3f}" if loss is not None else "")
    return known.get(name, tr("training log", lang) if name.endswith(".log") else "")


def cases(facts: Facts) -> list[Exchange]:
    """The recommended questions with the answers that were given."""
    bench = facts.look("evaluation.config.bench")
    found = facts.trusted("evaluation.recommended") or []
    return [_case(number, item, bench) for number, item in enumerate(found, 1)]


def _case(number: int, item: Json, bench: str | None) -> Exchange:
    image = _image(item.get("image"), bench)
    return Exchange(
        question=_question(item["question"]),
        expect=item.get("expect") or "",
        baseline=item["baseline"],
        tuned=item["tuned"],
        checks=item.get("checks") or {},
        image=image,
        figure=f"case_{number}" if image else "",
    )


def samples(facts: Facts) -> list[tuple[str, Exchange]]:
    """(dimension, test question with both answers): of each dimension the first one, not a chosen one."""
    if facts.stages["evaluation"].state != "measured":
        return []
    answers: dict[str, dict[str, Json]] = {}
    for row in facts.predictions:
        if row["split"] == "test":
            answers.setdefault(row["id"], {})[row["model"]] = row
    whole = [both for both in answers.values() if {"baseline", "tuned"} <= set(both)]
    firsts = {dim: next((both for both in whole if both["tuned"]["dim"] == dim), None) for dim in DIMENSIONS}
    return [(dim, _sample(dim, both)) for dim, both in firsts.items() if both]


def _sample(dim: str, both: dict[str, Json]) -> Exchange:
    row = both["tuned"]
    image = _image(row["images"][0] if row["images"] else None, None)
    return Exchange(
        question=_question(row["prompt"][-1]["content"]),
        expect=row["reference"],
        baseline=both["baseline"]["answer"],
        tuned=row["answer"],
        checks={},
        image=image,
        figure=f"sample_{dim}" if image else "",
    )


def pictures(facts: Facts) -> dict[str, Path]:
    """The images of the questions that are shown, by the name of their figure."""
    shown = [*cases(facts), *(case for _, case in samples(facts))]
    return {case.figure: case.image for case in shown if case.image}


def _question(text: str) -> str:
    return text.replace(IMAGE_MARKER, "").strip()


def _image(name: str | None, bench: str | None) -> Path | None:
    looked = [Path(files.with_home(name)), *([Path(files.with_home(bench)) / name] if bench else [])] if name else []
    return next((place for place in looked if place.is_file()), None)


def findings(facts: Facts, lang: Lang) -> list[str]:
    """What improved and what did not, each with its figures."""
    return [*_dimension_findings(facts, lang), *_check_findings(facts, lang)]


def _dimension_findings(facts: Facts, lang: Lang) -> list[str]:
    write = Numbers(lang)
    return [
        tr(
            FINDINGS[effect.finding],
            lang,
            dim=f"**{names.name(effect.name, lang)}**",
            delta=write.signed(effect.delta),
            low=write.write(effect.low, "signed"),
            high=write.write(effect.high, "signed"),
            n=effect.n,
        )
        for effect in comparison.effects(facts)
    ]


def _check_findings(facts: Facts, lang: Lang) -> list[str]:
    write = Numbers(lang)
    measured = facts.trusted("evaluation.checks") or {}
    changed = [(kind, item) for kind, item in measured.items() if item.get("n")]
    changed = [(kind, item) for kind, item in changed if abs(item["tuned"] - item["baseline"]) >= CHECK_CHANGE]
    changed.sort(key=lambda pair: pair[1]["baseline"] - pair[1]["tuned"])
    return [
        tr(
            "{check}: met in {tuned} of the answers, {baseline} before (n = {n}).",
            lang,
            check=checks.name(kind, lang),
            tuned=write.percent(item["tuned"]),
            baseline=write.percent(item["baseline"]),
            n=item["n"],
        )
        for kind, item in changed
    ]


def hashes(facts: Facts, lang: Lang) -> list[tuple[str, str]]:
    """What decides the run, by sha256."""
    wanted = [
        (tr("Base model", lang), "training.base_model.hash"),
        (tr("Data set", lang), "training.dataset.hash"),
        (tr("Chat template", lang), "training.template_hash"),
        (tr("Adapters", lang), "training.outputs"),
        (tr("Evaluated adapters", lang), "evaluation.adapters.hash"),
    ]
    found = [(what, facts.look(key)) for what, key in wanted]
    found = [(what, value.get(WEIGHTS) if isinstance(value, dict) else value) for what, value in found]
    return [(what, value) for what, value in found if value]


def configs(facts: Facts) -> str:
    """The folder of the settings this run was made with, where make noted it."""
    return files.without_home(str(facts.origin.configs)) if facts.origin else "configs/PROFILE"
