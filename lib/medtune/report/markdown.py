"""The facts as Markdown that GitHub renders: no HTML but ``<br>`` inside table cells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2

from medtune import checks
from medtune.deployment.proof import sentences
from medtune.files import Json
from medtune.i18n import Lang, tr
from medtune.receipt import versions
from medtune.records import DIMENSIONS
from medtune.report import advice, checklist, content, names
from medtune.report.checklist import Sign
from medtune.report.comparison import Effect
from medtune.report.facts import Facts
from medtune.report.numbers import Numbers
from medtune.run import LOGS

TEMPLATES = Path(__file__).parent / "templates"
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    trim_blocks=True,
    keep_trailing_newline=True,  # the parts of a page follow each other line by line
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # Markdown: foreign text goes through escaped() and code()
)
SPECIAL = re.compile(r"([\\`*_\[\]~$#|])")  # what GitHub's Markdown could read as more than text
MARKS = {"measured": "✅", "stale": "⚠️", "missing": "—"}
VERDICTS = {"passed": "✅", "failed": "❌", "skipped": "—"}


def escaped(text: Any) -> str:
    """Foreign text (an answer, a name) as the text it is, in a paragraph or a table cell."""
    plain = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\1", plain.strip()).replace("\r", "").replace("\n", "<br>")


def code(text: Any) -> str:
    """A name or a path as code."""
    return "`" + str(text).replace("`", "'").replace("|", "\\|").replace("\n", " ") + "`"


def render(facts: Facts, lang: Lang, now: str, figures: set[str]) -> str:
    """The whole report; ``figures`` names the pictures there are, ``now`` is when it is written."""
    helpers = Helpers(facts, lang, figures)
    vocabulary: Json = {name: getattr(helpers, name) for name in dir(helpers) if not name.startswith("_")}
    vocabulary |= _values(facts, lang) | {"esc": escaped, "now": now, "version": versions()["medtune"]}
    text = ENVIRONMENT.get_template("report.md.j2").render(vocabulary)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _values(facts: Facts, lang: Lang) -> Json:
    write = Numbers(lang)
    evaluation = facts.trusted("evaluation.migration")
    overrides = [code(item) for item in facts.look("training.overrides") or []]
    census = facts.look("training.lora.census") or {}
    return {
        "run": facts.place,
        "run_name": facts.run.name,
        "stages": facts.stages,
        "dims": DIMENSIONS,
        "drop": content.drop(facts),
        "dimension_losses": content.dimension_losses(facts),
        "census": ", ".join(f"{names.name(part, lang)} {write.count(size)}" for part, size in census.items() if size),
        "splits": facts.look("manifest.splits"),
        "comparison": content.effects(facts),
        "migration": evaluation,
        "files": content.files_of(facts, lang),
        "cases": content.cases(facts),
        "samples": content.samples(facts),
        "checklist": checklist.signs(facts, lang),
        "losses": content.loss_table(facts),
        "findings": content.findings(facts, lang),
        "advice": advice.advice(facts, lang),
        "hashes": content.hashes(facts, lang),
        "configs": content.configs(facts),
        "logs": ", ".join(code(f"{facts.place}/{path.name}") for path in sorted(facts.run.glob(LOGS))) or write.missing,
        "overrides": "".join(f", {item}" for item in overrides),
    }


class Helpers:
    """The words of the template: each looks something up or writes it down."""

    def __init__(self, facts: Facts, lang: Lang, figures: set[str]):
        self._facts = facts
        self._lang: Lang = lang
        self._figures = figures
        self.write = Numbers(lang)
        self.look, self.trusted, self.command = facts.look, facts.trusted, facts.command

    def t(self, sentence: str, **values: Any) -> str:
        """Say a sentence in the report's language."""
        return tr(sentence, self._lang, **values)

    def name_of(self, word: str) -> str:
        """The name of a stage, a dimension, a verdict ..."""
        return names.name(word, self._lang)

    def check_name(self, kind: str) -> str:
        """What people call a kind of check."""
        return checks.name(kind, self._lang)

    def show(self, key: str, how: str, facts: Facts | None = None) -> str:
        """The value at ``key``, written in the way ``how``."""
        value = (facts or self._facts).look(key)
        if value is not None and how == "code":
            return code(value)
        if value is not None and how == "length":
            return self.write.count(len(value))
        text = self.name_of(value) if how == "word" and value is not None else self.write.write(value, how)
        return escaped(text) if how == "text" else text

    def table(self, rows: list[tuple[str, str, str]]) -> str:
        """A table of (label, key, way to write it), each with its key; with a baseline run beside it, if named."""
        base = self._facts.baseline
        head = ["", self.t("Value"), *([escaped(base.run.name)] if base else []), self.t("Source")]
        lines = [_line(head), _line(["---"] * len(head))]
        for label, key, how in rows:
            before = [self.show(key, how, base)] if base else []
            lines.append(_line([label, self.show(key, how), *before, f"`{key}`"]))
        return "\n".join(lines)

    def banner(self, name: str) -> str:
        """A line above a section whose receipt is missing or speaks of other files."""
        stage = self._facts.stages[name]
        command = f"`{self.command(stage.verb)}`"
        if stage.state == "missing":
            return f"> **{self.t('Not measured')}**{self.t(': ')}{self.t('run {command}.', command=command)}"
        if stage.state == "stale":
            files = ", ".join(code(item) for item in stage.changed[:5])
            sentence = self.t("changed since: {files}; run {command}.", files=files, command=command)
            return f"> **{self.t('Stale')}**{self.t(': ')}{sentence}"
        return ""

    def figure(self, name: str, title: str) -> str:
        """A picture, where there is one."""
        return f"\n![{title}](figures/{name}.png)\n" if name in self._figures else ""

    def state_mark(self, name: str) -> str:
        """The sign of a stage's state."""
        return MARKS[self._facts.stages[name].state]

    def verdict(self, said: str) -> str:
        """A proof's verdict with its sign."""
        return f"{VERDICTS[said]} {self.name_of(said)}"

    def kinds(self, split: Json, dim: str) -> str:
        """Desirable, undesirable and marked records of a dimension."""
        found = split.get("dimensions", {}).get(dim, {})
        return " / ".join(self.write.count(found.get(kind, 0)) for kind in ("desirable", "undesirable", "marked"))

    def interval(self, effect: Effect) -> str:
        """A 95 percent interval."""
        if effect.low is None or effect.high is None:
            return self.write.missing
        return f"{self.write.signed(effect.low)} … {self.write.signed(effect.high)}"

    def proof_name(self, proof: Json) -> str:
        """The name of a level of the proof."""
        return escaped(sentences.name(proof, self._lang))

    def note_of(self, proof: Json) -> str:
        """Why a proof failed or was not run."""
        return escaped(sentences.note(proof, self._lang, self.command("prove")))

    def figures_of(self, proof: Json) -> str:
        """A proof's figures in its own sentence, else as name and value."""
        if said := sentences.figures(proof, self._lang):
            return escaped(said)
        measured = {name: value for name, value in (proof.get("figures") or {}).items() if value not in ([], {}, "")}
        shown = {name: f"{v:.4g}" if isinstance(v, float) else v for name, v in measured.items()}
        return self.pairs({name.replace("_", " "): value for name, value in shown.items()})

    def pairs(self, values: Json | None) -> str:
        """Names with their values, in one cell."""
        return ", ".join(f"{escaped(name)} {escaped(value)}" for name, value in (values or {}).items())

    def tick(self, met: Any) -> str:
        """Whether a check was met; a share where it is met in part."""
        if met is None:
            return "—"
        return "✅" if met >= 1 else "❌" if met <= 0 else self.write.percent(met)

    def ending(self, sign: Sign) -> str:
        """What follows a line of the checklist: its evidence, or that there is none."""
        if sign.passed is None:
            return f"{self.t(': ')}**{self.write.missing}**"
        return (self.t(": ") + escaped(sign.evidence) if sign.evidence else "") + ("" if sign.passed else " ❌")

    def loss(self, value: float | None) -> str:
        """A loss, or a dash where a step did not report it."""
        return "—" if value is None else self.write.loss(value)

    def commit_of(self, name: str) -> str:
        """A stage's commit, short, with its mark when the tree was dirty."""
        sha = self._facts.look(f"{name}.commit") or ""
        return code(sha[:12] + ("-dirty" if sha.endswith("-dirty") else ""))

    def literal(self, value: Any) -> str:
        """A string as Python writes it, on one line; a path in the person's home as one that Python finds."""
        written = json.dumps(str(value), ensure_ascii=False)
        return f"os.path.expanduser({written})" if str(value).startswith("~/") else written

    @property
    def base_name(self) -> str:
        """What the libraries load as base model."""
        return self._facts.look("training.base_model.name") or "BASE_MODEL"

    @property
    def in_home(self) -> bool:
        """Whether any of the places that Python is to load from lies in the person's home."""
        places = (self.base_name, self._facts.place, self._facts.trusted("deployment.folder") or "")
        return any(place.startswith("~/") for place in places)

    @property
    def model_key(self) -> str:
        """The model as LM Studio lists it."""
        publisher, name = self._facts.trusted("deployment.publisher"), self._facts.trusted("deployment.name")
        return code(f"{publisher}/{name}") if name else "…"

    @property
    def baseline_name(self) -> str:
        """What the tuned model was compared with."""
        baseline = self._facts.look("evaluation.baseline") or {}
        if baseline.get("kind") == "run":
            return code(baseline.get("path"))
        return self.t("the untouched base model")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
