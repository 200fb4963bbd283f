"""The demo's pre-training: what the model is shown is what the processor would show it, and a kill costs nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from medtune.demo import config as blueprint
from medtune.demo import corpus, pretraining, random_model, sampling, sheets, tokenizer, vision_pretraining
from medtune.records import IMAGE_MARKER, Message
from tests.demoassets import loaded, words


def test_a_dialogue_is_encoded_as_the_processor_encodes_it() -> None:
    pytest.importorskip("pylopdf_fonts_zh_cn", reason="the extra `demo` is not installed")
    _, processor = loaded()
    sheet = sampling.sheet(random.Random(3), "pretraining")
    asked, said = IMAGE_MARKER + "读出来。", "血常规。"
    messages = (Message(role="user", content=asked), Message(role="assistant", content=said))
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "读出来。"}]},
        {"role": "assistant", "content": said},
    ]
    theirs = processor(images=[sheets.render(sheet)], text=[processor.apply_chat_template(turns, tokenize=False)])
    ids, answer = pretraining.encode(corpus.Dialogue(messages, sheet), words())
    pixels, grid = vision_pretraining.patches(sheet)
    assert theirs["input_ids"].tolist()[0][:-1] == ids
    assert words().decode(ids[answer:], skip_special_tokens=False) == said + "<|im_end|>"
    assert theirs["image_grid_thw"].tolist() == [list(grid)]
    np.testing.assert_allclose(np.array(theirs["pixel_values"]), pixels, atol=1e-5)


def test_each_visual_token_of_an_image_is_told_what_stands_in_its_own_cell() -> None:
    pytest.importorskip("pylopdf_fonts_zh_cn", reason="the extra `demo` is not installed")
    rng = random.Random(4)
    for shown in (sampling.sheet(rng, "pretraining"), sampling.examination(rng, "pretraining")):
        width, height = sheets.render(shown).size
        assert len(sheets.cells(shown)) == len(vision_pretraining.labels(shown)) == width * height // sheets.CELL**2
    row = sheets.SheetRow("白细胞", "12.6", "高")
    told = sheets.cells(sheets.Sheet("血常规", (row,)))[sheets.COLUMNS :]
    assert [left + right for left, right, _ in told] == ["", "", "", "12", ".6", "高高", ""]
    assert {topic for _, _, topic in told} == {"血常规白细胞"}


class Killed(Exception):
    """The run ends here."""


def test_a_pretraining_stopped_on_the_way_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("faker_healthcare", "pylopdf_fonts_zh_cn"):
        pytest.importorskip(package, reason="the extra `demo` is not installed")
    recipe = pretraining.Recipe(eye_steps=2, eye_images=4, steps=4, text_rows=2, image_rows=1, warmup=1)
    shape = blueprint.Shape(
        vocabulary=words().get_vocab_size(), hidden=32, layers=2, heads=2, kv_heads=2, intermediate=32,
        vision_hidden=16, vision_layers=1, vision_heads=1, vision_intermediate=16, deepstack=(0,),
    )  # fmt: skip
    config = blueprint.config(shape, words())

    def fitted(scratch: Path) -> mx.array:
        model = random_model.random_model(config, seed=0)
        pretraining.fit(model, words(), recipe, scratch, save_every=2)
        return model.language_model.lm_head.weight

    whole = fitted(tmp_path / "whole")
    draw = pretraining.batches

    def killed_after_three(*args: Any) -> Any:
        for step, batch in enumerate(draw(*args)):
            if step == 3:
                raise Killed
            yield batch

    monkeypatch.setattr(pretraining, "batches", killed_after_three)
    with pytest.raises(Killed):
        fitted(tmp_path / "broken")
    monkeypatch.undo()
    assert mx.array_equal(fitted(tmp_path / "broken"), whole)
    with pytest.raises(ValueError, match="another recipe"):
        pretraining.fit(random_model.random_model(config, 0), words, pretraining.Recipe(), tmp_path / "broken")


def test_texts_too_poor_for_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="not 1792"):
        tokenizer.train(["血压"], 1792)
