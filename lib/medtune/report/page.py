"""Markdown -> one HTML page that needs nothing else: style, figures and contents are inside."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from medtune.i18n import Lang, tr
from medtune.report import checklist, comparison, content
from medtune.report.facts import Facts
from medtune.report.markdown import TEMPLATES
from medtune.report.numbers import Numbers

# Signs as text: many systems have no emoji font, and a printer no colours of its own.
ENVIRONMENT = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
SIGNS = (("✅", "yes", "✓"), ("❌", "no", "✗"), ("⚠️", "warn", "!"))


@dataclass(frozen=True)
class Card:
    """One figure at the head of the page."""

    label: str
    value: str
    note: str
    tone: str  # good, bad, or empty


def render(markdown: str, facts: Facts, lang: Lang, pictures: dict[str, str]) -> str:
    """The page of a report; ``pictures`` maps a figure's name to its ``<svg>`` or ``<img>``."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("image", _image(pictures))
    tokens = parser.parse(markdown)
    contents = _anchors(tokens)
    body = _polish(parser.renderer.render(tokens, parser.options, {}))
    return ENVIRONMENT.get_template("report.html.j2").render(
        lang="zh-CN" if lang == "zh" else "en",
        title=tr("Training report: {run}", lang, run=facts.run.name),
        body=Markup(body),
        contents=contents,
        cards=cards(facts, lang),
        contents_title=tr("Contents", lang),
    )


def picture(png: bytes, title: str = "") -> str:
    """A PNG as an image that carries its bytes with it."""
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{title}">'


def cards(facts: Facts, lang: Lang) -> list[Card]:
    """The figures a reader looks for first."""
    write = Numbers(lang)
    fall, best = content.drop(facts), facts.look("training.val_loss.best")
    whole = comparison.overall(facts)
    answers = [sign.passed for sign in checklist.signs(facts, lang)]
    proofs = [proof["verdict"] for proof in facts.trusted("deployment.proofs") or []]
    passed = proofs.count("passed")
    return [
        Card(tr("Best validation loss", lang), write.write(best, "loss"), _arrow(fall, write), _tone(fall)),
        Card(
            tr("Test score, tuned", lang),
            write.write(whole and whole.tuned, "score"),
            write.signed(whole.delta) if whole else "",
            _tone(whole and whole.delta),
        ),
        Card(
            tr("Proofs of the deployment", lang),
            f"{passed} / {len(proofs)}" if proofs else write.missing,
            tr("{n} failed", lang, n=proofs.count("failed")) if "failed" in proofs else "",
            "bad" if "failed" in proofs else "good" if passed else "",
        ),
        Card(
            tr("Signs of success", lang),
            f"{answers.count(True)} / {len(answers)}",
            tr("{n} not measured", lang, n=answers.count(None)) if None in answers else "",
            "good" if all(answers) else "",
        ),
    ]


def _arrow(fall: float | None, write: Numbers) -> str:
    return "" if fall is None else f"{'↓' if fall >= 0 else '↑'} {write.percent(abs(fall))}"


def _tone(change: float | None) -> str:
    return "" if not change else "good" if change > 0 else "bad"


def _anchors(tokens: list[Token]) -> list[tuple[str, str]]:
    """Give every section an anchor; (anchor, title) of each."""
    contents = []
    for number, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            token.attrSet("id", f"s{len(contents) + 1}")
            contents.append((f"s{len(contents) + 1}", _plain(tokens[number + 1])))
    return contents


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or [])


def _image(pictures: dict[str, str]) -> Any:
    def rule(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
        source = str(tokens[index].attrGet("src"))
        return pictures[source.removeprefix("figures/").removesuffix(".png")]

    return rule


def _polish(html: str) -> str:
    """What Markdown has no word for: line breaks in cells, check boxes, tables that scroll on a narrow screen."""
    html = html.replace("&lt;br&gt;", "<br>")  # our own: a foreign one arrives here as text and stays harmless
    html = re.sub(r"<li>\[x\] ", '<li class="yes">', html)
    html = re.sub(r"<li>\[ \] (.*?)(?: ❌)?</li>", _unchecked, html)
    html = re.sub(r"<h1>.*?</h1>\s*", "", html, count=1, flags=re.S)  # the head of the page says it
    for emoji, kind, sign in SIGNS:
        html = html.replace(emoji, f'<span class="{kind}">{sign}</span>')
    html = html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    return re.sub(r"<p>(<svg.*?</svg>|<img[^>]*>)</p>", r"<figure>\1</figure>", html, flags=re.S)


def _unchecked(match: re.Match[str]) -> str:
    kind = "no" if match[0].endswith("❌</li>") else "open"
    return f'<li class="{kind}">{match[1]}</li>'
