"""A default system prompt in the chat template renders as training saw it, in Python and in LM Studio's JavaScript."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from medtune.deployment import template
from medtune.errors import UserError
from medtune.model import base

AWKWARD = "你是医生。\n'引号' \"双\" \\ 反斜杠 \\n {{ x }} {% y %} {# z #}\t😀"
CONVERSATIONS: list[list[dict[str, Any]]] = [
    *template.PROBES,
    [{"role": "system", "content": "S"}, {"role": "user", "content": "x"}],
    [
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "比较"}]},
        {"role": "assistant", "content": "好"},
        {"role": "user", "content": "谢谢"},
    ],
]
JAVASCRIPT = """
const {readFileSync} = require("node:fs");
const {Template} = require("@huggingface/jinja");
const cases = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(cases.map(c =>
  new Template(c.template).render({messages: c.messages, add_generation_prompt: true}))));
"""


@pytest.fixture(scope="module")
def plain() -> str:
    from medtune.demo.random_model import DEMO_MODEL

    return base.Base.find(str(DEMO_MODEL)).chat_template


@pytest.mark.parametrize("prompt", ["你是一位医生。", AWKWARD])
def test_the_prompt_is_added_exactly_where_a_conversation_has_none(plain: str, prompt: str) -> None:
    made = template.with_system_prompt(plain, prompt)
    system = [{"role": "system", "content": prompt}]
    for messages in CONVERSATIONS:
        own = messages[0]["role"] == "system"
        assert template.render(made, messages) == template.render(plain, messages if own else system + messages)


def test_no_prompt_changes_no_byte(plain: str) -> None:
    assert template.with_system_prompt(plain, "") == plain


def test_a_template_that_would_say_it_otherwise_is_refused() -> None:
    counting = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert template.with_system_prompt(counting, "x").endswith(counting)
    white_space = "\n" + counting  # a line break after a block is swallowed, so the text would begin otherwise
    with pytest.raises(UserError, match="cannot take a default system prompt"):
        template.with_system_prompt(white_space, "x")


def test_lm_studios_renderer_writes_the_same_bytes(plain: str, root: Path) -> None:
    node, installed = shutil.which("node"), root / "build" / "jinja" / "node_modules" / "@huggingface" / "jinja"
    if node is None or not installed.exists():
        pytest.skip("LM Studio's renderer is not here: npm install --prefix build/jinja @huggingface/jinja@0.5.11")
    texts = [plain, *(template.with_system_prompt(plain, prompt) for prompt in ("你是一位医生。", AWKWARD))]
    cases = [{"template": text, "messages": messages} for text in texts for messages in CONVERSATIONS]
    done = subprocess.run(
        [node, "-e", JAVASCRIPT], input=json.dumps(cases), capture_output=True, text=True, check=True,
        cwd=root / "build" / "jinja",
    )  # fmt: skip
    assert json.loads(done.stdout) == [template.render(case["template"], case["messages"]) for case in cases]
