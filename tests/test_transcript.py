"""What is learned is what is served: also where the template looks into what people wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medtune.errors import UserError
from medtune.model.base import Base
from medtune.model.renderer import Example, Renderer
from medtune.model.transcript import moved
from medtune.records import Message, Record, Span

# What Qwen3's thinking templates do, in our words: thoughts before the last question are cut out, and every answer
# after it begins with a thought, if an empty one.
TURNS = """
{%- set state = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set state.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- set said = m.content if m.content is string else '<|vision_start|><|image_pad|><|vision_end|>' %}
    {%- set thought = '' %}
    {%- if m.role == 'assistant' and '</think>' in said %}
        {%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}
        {%- set said = said.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ m.role ~ '\n' }}
    {%- if m.role == 'assistant' and loop.index0 > state.last %}
        {{- '<think>\n' ~ thought ~ '\n</think>\n\n' }}
    {%- endif %}
    {{- said ~ '<|im_end|>\n' }}
{%- endfor %}"""
PLAIN = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}"
ASKS = "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
FORCES = ASKS.replace("assistant\n", "assistant\n<think>\n")
TEMPLATES = {
    "plain": PLAIN + ASKS,
    "trimmed": PLAIN.replace("m.content ~", "m.content | trim ~") + ASKS,
    "hybrid": TURNS + ASKS,
    "thinking": TURNS + FORCES,
}
CONVERSATIONS = {
    "thought": ("头痛？", "<think>\n先想。\n</think>\n\n休息。"),
    "no thought": ("头痛？", "休息。"),
    "two turns": ("a", "<think>\nx\n</think>\n\n一", "b", "<think>\ny\n</think>\n\n二"),
    "special": ("<|im_end|>a<|im_start|>", "说<|im_end|>完</think>了<|im_start|>。"),
    "spaces": (" a ", "\n\n 好 \n"),
    "nothing": ("a", "<think>\n</think>\n\n"),
}


def model(folder: Path, demo_model: Path, template: str) -> Path:
    """The demo model with another template."""
    shutil.copytree(demo_model, folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def renderers(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Renderer]:
    folder = tmp_path_factory.mktemp("templates")
    return {name: Renderer(Base.find(str(model(folder / name, demo_model, text)))) for name, text in TEMPLATES.items()}


def record(*said: str, label: int = 1, spans: tuple[Span, ...] = ()) -> Record:
    roles = ("user", "assistant") * len(said)
    messages = tuple(Message(role=role, content=text) for role, text in zip(roles, said, strict=False))
    return Record(id="r", source="t", messages=messages, label=label, spans=spans)  # type: ignore[arg-type]


def text(renderer: Renderer, tokens: np.ndarray) -> str:
    return renderer.tokenizer.decode(tokens.tolist())


def learned(renderer: Renderer, example: Example) -> str:
    return text(renderer, example.tokens[example.token_weights > 0])


def rendered(renderer: Renderer, messages: tuple[Message, ...], waiting: bool = False) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    return renderer.tokenizer.apply_chat_template(
        turns, chat_template=renderer.base.chat_template, tokenize=False, add_generation_prompt=waiting
    )


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_and_answer_are_the_conversation_as_the_template_writes_it(
    renderers: dict[str, Renderer], name: str, conversation: str
) -> None:
    renderer, said = renderers[name], record(*CONVERSATIONS[conversation])
    example, prompt = renderer.encode(said, Path()), renderer.prompt(said.prompt)
    assert text(renderer, example.tokens) == rendered(renderer, said.messages)
    assert text(renderer, prompt.tokens) == rendered(renderer, said.prompt, waiting=True)
    begin = int(np.argmax(example.answer))
    assert np.array_equal(example.tokens[:begin], prompt.tokens)  # to the token, not only to the letter
    assert renderer.as_served(said, example)
    end = int(np.flatnonzero(example.answer)[-1])
    assert int(example.tokens[end]) in renderer.stop_ids and example.token_weights[end] == 1


def test_the_empty_thought_is_learned_where_the_model_has_to_say_it(renderers: dict[str, Renderer]) -> None:
    said = record(*CONVERSATIONS["no thought"])
    found = {name: learned(renderer, renderer.encode(said, Path())) for name, renderer in renderers.items()}
    assert found == {
        "plain": "休息。<|im_end|>",
        "trimmed": "休息。<|im_end|>",
        "hybrid": "<think>\n\n</think>\n\n休息。<|im_end|>",
        "thinking": "\n</think>\n\n休息。<|im_end|>",
    }


def test_an_earlier_turn_is_learned_only_where_it_stands_as_it_was_given(renderers: dict[str, Renderer]) -> None:
    said = record(*CONVERSATIONS["two turns"])
    plain, thinking = renderers["plain"], renderers["thinking"]
    assert learned(plain, plain.encode(said, Path())).count("<think>") == 2
    assert learned(thinking, thinking.encode(said, Path())) == "y\n</think>\n\n二<|im_end|>"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_special_token_that_a_person_spells_out_stays_text(renderers: dict[str, Renderer], name: str) -> None:
    renderer = renderers[name]
    tokens = renderer.encode(record(*CONVERSATIONS["special"]), Path()).tokens.tolist()
    marks = [renderer.tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_start|>", "<|im_end|>")]
    assert [tokens.count(mark) for mark in marks] == [2, 2]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_marked_span_is_found_where_the_template_put_it(renderers: dict[str, Renderer], name: str) -> None:
    answer = "<think>\n先\n</think>\n\n一定能治好。再见。"
    start = answer.index("一定")
    said = record("问", answer, label=0, spans=(Span(start=start, end=start + 2, weight=-1.0),))
    example = renderers[name].encode(said, Path())
    assert text(renderers[name], example.tokens[example.token_weights < 0]) == "一定"
    assert not (example.token_weights > 0).any()


def test_what_a_template_leaves_out_of_a_content_has_no_span() -> None:
    spans = [Span(start=0, end=3, weight=2.0), Span(start=4, end=6, weight=3.0)]
    assert list(moved(spans, "abc def", "def")) == [Span(start=0, end=2, weight=3.0)]


def test_where_the_prompt_is_written_otherwise_an_answer_can_be_encoded_but_is_not_as_served(
    demo_model: Path, tmp_path: Path
) -> None:
    renderer = Renderer(Base.find(str(model(tmp_path / "m", demo_model, PLAIN + FORCES))))
    said = record("头痛？", "休息。")
    example = renderer.encode(said, Path())
    assert learned(renderer, example) == "休息。<|im_end|>" and not renderer.as_served(said, example)


def test_a_template_that_writes_neither_the_contents_nor_the_prompt_is_one_line(
    demo_model: Path, tmp_path: Path
) -> None:
    template = PLAIN.replace("m.content ~", "m.content | upper ~") + FORCES
    renderer = Renderer(Base.find(str(model(tmp_path / "m", demo_model, template))))
    with pytest.raises(UserError, match="would not be what is served"):
        renderer.encode(record("a", "b"), Path())
