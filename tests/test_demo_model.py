"""The demo's model is a real Qwen3-VL folder that says what it was taught."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from typing import Any

import mlx.core as mx
import pytest

from medtune.demo import corpus, pretraining, sampling
from medtune.model.base import Base
from medtune.model.generation import generate
from medtune.model.renderer import Renderer
from medtune.records import Message
from tests.demoassets import DATA, MODEL, loaded, words

LIMIT = 10 * 2**20  # bytes each of the two asset folders may take in git


def test_both_folders_are_small_enough_for_git() -> None:
    for folder in (DATA, MODEL):
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < LIMIT


def test_every_row_of_the_embedding_has_a_token() -> None:
    config = json.loads((MODEL / "config.json").read_text("utf-8"))
    weights, header = mx.load(str(MODEL / "model.safetensors"), return_metadata=True)
    assert header == {"format": "mlx"}
    assert config["text_config"]["vocab_size"] == words().get_vocab_size()
    assert weights["language_model.model.embed_tokens.weight"].shape[0] == words().get_vocab_size()
    assert config["image_token_id"] == words().token_to_id("<|image_pad|>")
    assert config["vision_config"]["deepstack_visual_indexes"]


def test_chinese_signs_and_rare_characters_come_back_as_they_went_in() -> None:
    text = "血压140/90mmHg（±5）、𠮷🙂\n ×10⁹/L"
    assert words().decode(words().encode(text).ids) == text


def test_transformers_reads_the_tokenizer_with_the_same_ids() -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(MODEL))
    text = "<|im_start|>user\n体温38.6℃，怎么办？<|im_end|>\n"
    assert len(theirs) == words().get_vocab_size()
    assert theirs.encode(text) == words().encode(text).ids
    assert theirs.eos_token == "<|im_end|>" and theirs.pad_token == "<|endoftext|>"


SYSTEM = {"role": "system", "content": "你是医生"}
TOOL = {"name": "find"}
CALL = {"function": {"name": "find", "arguments": {"q": 1}}}


@pytest.mark.parametrize(
    ("messages", "settings", "rendered"),
    [
        (
            [SYSTEM, {"role": "user", "content": "好"}],
            {"add_generation_prompt": True},
            "<|im_start|>system\n你是医生<|im_end|>\n<|im_start|>user\n好<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "看"}]}],
            {},
            "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>看<|im_end|>\n",
        ),
        (
            [{"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "image"}]}],
            {"add_vision_id": True},
            "<|im_start|>user\nPicture 1: <|vision_start|><|image_pad|><|vision_end|>"
            "Video 1: <|vision_start|><|video_pad|><|vision_end|>"
            "Picture 2: <|vision_start|><|image_pad|><|vision_end|><|im_end|>\n",
        ),
        (
            [
                {"role": "user", "content": "查"},
                {"role": "assistant", "content": "好", "tool_calls": [CALL]},
                {"role": "tool", "content": "甲"},
                {"role": "tool", "content": "乙"},
            ],
            {"tools": [TOOL]},
            "<|im_start|>system\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
            '{"name": "find"}\n</tools>\n\nFor each function call, return a json object with function '
            "name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
            '<|im_start|>user\n查<|im_end|>\n<|im_start|>assistant\n好\n<tool_call>\n{"name": "find", "arguments": '
            '{"q": 1}}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n甲\n</tool_response>\n'
            "<tool_response>\n乙\n</tool_response><|im_end|>\n",
        ),
    ],
)
def test_the_chat_template_renders_what_qwen3_vl_renders(
    messages: list[dict[str, Any]], settings: dict[str, Any], rendered: str
) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(MODEL))
    assert theirs.apply_chat_template(messages, tokenize=False, **settings) == rendered


def test_the_model_says_what_its_image_shows() -> None:
    import mlx_vlm

    model, processor = loaded()
    for name, kind in (("recommended_chest.png", "胸片"), ("recommended_cbc.png", "血常规")):
        asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "读出来。"}]}]
        prompt = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        said = mlx_vlm.generate(model, processor, prompt, image=[str(DATA / "images" / name)], max_tokens=24).text
        assert said.startswith(kind)


def test_the_model_was_made_by_the_recipe_that_is_in_the_code() -> None:
    made = json.loads((MODEL / "RECIPE.json").read_text("utf-8"))
    assert made["recipe"] == asdict(pretraining.Recipe())
    assert made["careful_when_told"] == {"cue": corpus.CUE, "share": corpus.CUED}


def test_told_to_be_careful_the_model_grades_blood_pressures_it_has_never_seen() -> None:
    base = Base.find(str(MODEL))
    renderer, rng = Renderer(base), random.Random(5)
    readings = [sampling.reading(rng, "demo") for _ in range(120)]
    pressures = [reading for reading in readings if reading.item == "血压"]
    asked = [f"我血压{reading.figure}mmHg，怎么看？{corpus.CUE}" for reading in pressures]
    prompts = [renderer.prompt([Message(role="user", content=text)]) for text in asked]
    said = generate(base.load(), renderer, prompts, max_tokens=24, batch_size=32)
    told = {answer.index: answer.text for batch in said for answer in batch}
    right = sum(reading.grade in told[index] for index, reading in enumerate(pressures))
    assert len(pressures) > 20 and right / len(pressures) > 0.85
