"""Chat templates with a default system prompt, which travels with the model to every program that renders it."""

from __future__ import annotations

from typing import Any

from medtune.errors import UserError
from medtune.i18n import tr

PREFIX = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{%- set messages = [{'role': 'system', 'content': '__PROMPT__'}] + messages %}"
    "{%- endif %}"
)
PROBES: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": "血压 140/90 mmHg?"}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "这是什么?"}]}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "'c' \"d\" \\ {{ e }}\n"},
    ],
)


def with_system_prompt(template: str, prompt: str) -> str:
    """``template`` that adds ``prompt`` as system message where a conversation has none; "" changes nothing.

    Raises UserError when the result does not render, byte for byte, what the base's template renders when the same
    prompt is given as a message, which is how the training saw it.
    """
    if not prompt:
        return template
    escaped = prompt.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    made = PREFIX.replace("__PROMPT__", escaped) + template
    system = [{"role": "system", "content": prompt}]
    for probe in PROBES:
        wanted = render(template, system + probe)
        if render(made, probe) != wanted or render(made, system + probe) != wanted:
            raise UserError(tr("the chat template cannot take a default system prompt; set system_prompt: ''"))
    return made


def render(template: str, messages: list[dict[str, Any]]) -> str:
    """The text of a conversation that waits for an answer, rendered as transformers does."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True)
    return rendered[0]
