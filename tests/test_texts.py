"""What people read: every sentence has its Chinese, and no Chinese is left over."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import yaml

from medtune.i18n import TEXTS, tr
from tests.source import LIBRARY, ROOT, TOOLS, nodes

SOURCES = [*LIBRARY, *TOOLS]
TEMPLATES = sorted(ROOT.glob("lib/medtune/**/*.j2"))
SPEAKERS = ("tr", "say", "t")  # the functions that say a sentence in the person's language


def spoken() -> Iterator[tuple[str, str]]:
    """(sentence, place) of every sentence that is said."""
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                if name in SPEAKERS and isinstance(node.args[0].value, str):
                    yield node.args[0].value, f"{path.relative_to(ROOT)}:{node.lineno}"
    for path in TEMPLATES:
        for match in re.finditer(r"""\bt\((?:"([^"]*)"|'([^']*)')""", path.read_text(encoding="utf-8")):
            yield match[1] or match[2], str(path.relative_to(ROOT))


def constants() -> set[str]:
    """Every text in the code: sentences may also stand in tables and be said elsewhere."""
    found = [node for path in SOURCES for node in nodes(path) if isinstance(node, ast.Constant)]
    return {node.value for node in found if isinstance(node.value, str)} | {sentence for sentence, _ in spoken()}


def entries() -> list[tuple[str, str]]:
    """(English, Chinese) in the order of the file, repetitions included."""
    node = yaml.compose((TEXTS / "zh.yaml").read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    return [(key.value, value.value) for key, value in node.value]


def test_every_sentence_has_its_chinese() -> None:
    chinese = dict(entries())
    assert [f"{place}: {sentence}" for sentence, place in spoken() if sentence not in chinese] == []


def test_every_chinese_sentence_is_said_somewhere() -> None:
    said = constants()
    assert [english for english, _ in entries() if english not in said] == []


def test_no_sentence_is_translated_twice() -> None:
    english = [key for key, _ in entries()]
    assert sorted({key for key in english if english.count(key) > 1}) == []


def test_a_translation_keeps_the_values_of_its_sentence() -> None:
    def values(text: str) -> list[str]:
        return sorted(set(re.findall(r"\{(\w+)", text)))

    assert [english for english, chinese in entries() if values(english) != values(chinese)] == []


def test_an_unknown_sentence_is_said_as_it_is() -> None:
    assert tr("nobody translated {this}", "zh", this="me") == "nobody translated me"
