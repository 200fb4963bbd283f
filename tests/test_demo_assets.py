"""The demo's facts are the standards', its records keep their promises, and its model is a real Qwen3-VL folder."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from medtune import checks
from medtune.config import load
from medtune.demo import config as blueprint
from medtune.demo import (
    corpus,
    facts,
    phrases,
    pretraining,
    random_model,
    sampling,
    sheets,
    tokenizer,
    vision_pretraining,
)
from medtune.model.base import Base
from medtune.model.generation import generate
from medtune.model.renderer import Renderer
from medtune.records import DIMENSIONS, IMAGE_MARKER, Message, Record
from medtune.schemas import DataConfig

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data" / "raw" / "demo"
MODEL = ROOT / "data" / "demo" / "model"
LIMIT = 10 * 2**20  # bytes each of the two asset folders may take in git


@pytest.fixture(scope="module")
def records() -> list[Record]:
    lines = [line for name in DIMENSIONS for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]
    return [Record.model_validate_json(line) for line in lines]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    import mlx_vlm

    model, processor = mlx_vlm.load(str(MODEL))
    model.set_dtype(mx.float32)
    return model, processor


# Facts


@pytest.mark.parametrize(
    ("systolic", "diastolic", "grade"),
    [
        (118, 78, "正常血压"),
        (120, 79, "正常高值"),
        (139, 89, "正常高值"),
        (140, 89, "1级高血压"),
        (138, 90, "1级高血压"),
        (159, 100, "2级高血压"),
        (185, 95, "3级高血压"),
    ],
)
def test_the_higher_of_the_two_pressures_decides_the_grade(systolic: int, diastolic: int, grade: str) -> None:
    assert facts.blood_pressure(systolic, diastolic).grade == grade


@pytest.mark.parametrize(
    ("item", "sex", "value", "grade"),
    [
        ("体温", "", 37.2, "体温正常"),
        ("体温", "", 37.3, "低热"),
        ("体温", "", 38.1, "中等度热"),
        ("体温", "", 39.1, "高热"),
        ("体温", "", 41.0, "高热"),
        ("体温", "", 41.1, "超高热"),
        ("BMI", "", 23.9, "体重正常"),
        ("BMI", "", 24.0, "超重"),
        ("BMI", "", 28.0, "肥胖"),
        ("空腹血糖", "", 6.0, "空腹血糖正常"),
        ("空腹血糖", "", 6.1, "空腹血糖受损"),
        ("空腹血糖", "", 7.0, "达到糖尿病诊断切点"),
        ("白细胞", "", 3.8, "正常范围"),
        ("白细胞", "", 9.5, "正常范围"),
        ("白细胞", "", 9.6, "偏高"),
        ("血小板", "", 110, "偏低"),
        ("血小板", "", 320, "正常范围"),
        ("血红蛋白", "女", 118, "正常范围"),
        ("血红蛋白", "男", 118, "偏低"),
        ("尿酸", "", 420, "尿酸未超标"),
        ("尿酸", "", 421, "高尿酸血症"),
        ("血氧饱和度", "", 95, "血氧正常"),
    ],
)
def test_a_value_at_the_edge_of_a_grade_falls_on_the_side_the_standard_says(
    item: str, sex: str, value: float, grade: str
) -> None:
    (scale,) = [scale for scale in facts.SCALES if (scale.item, scale.sex) == (item, sex)]
    assert scale.read(value).grade == grade


def test_no_fact_belongs_to_both_worlds_and_each_world_has_every_kind() -> None:
    kinds = (sampling.reading, sampling.symptom, sampling.emergency, sampling.sheet, sampling.picture)
    for kind in kinds:
        found = {name: set() for name in ("demo", "pretraining")}
        for name, clusters in found.items():
            rng = random.Random(1)
            clusters.update(kind(rng, name).cluster for _ in range(300))
        assert found["demo"] and found["pretraining"] and not found["demo"] & found["pretraining"]


def test_the_demos_settings_name_the_standards_its_facts_come_from() -> None:
    source = load(DataConfig, ROOT / "configs/demo/data.yaml").sources[0]
    assert set(source.standards) == {scale.standard for scale in facts.SCALES if scale.standard.startswith("WS/T")}


def test_a_filled_template_knows_where_each_fact_stands() -> None:
    line = phrases.fill("{item}{figure}属于{grade}。", {"item": "血压", "figure": "150/95", "grade": "1级高血压"})
    assert line.text == "血压150/95属于1级高血压。"
    assert {name: line.text[slice(*place)] for name, place in line.places.items()} == {
        "item": "血压",
        "figure": "150/95",
        "grade": "1级高血压",
    }


# Records


def test_the_dimensions_stand_at_about_50_35_15(records: list[Record]) -> None:
    share = {name: sum(r.dim == name for r in records) / len(records) for name in DIMENSIONS}
    assert share == pytest.approx({"accuracy": 0.50, "warmth": 0.35, "vision": 0.15}, abs=0.04)


def test_every_desirable_answer_passes_all_its_checks_and_every_undesirable_one_fails_some(
    records: list[Record],
) -> None:
    for record in records:
        assert not [problem for check in record.checks for problem in checks.problems(check)]
        passed = [checks.score(check, record.answer) == 1 for check in record.checks]
        assert all(passed) == (record.label == 1), record.id


def test_every_image_of_a_record_opens_and_is_cut_into_whole_visual_tokens(records: list[Record]) -> None:
    for record in records:
        assert sum(message.content.count(IMAGE_MARKER) for message in record.messages) == len(record.images)
        for name in record.images:
            with Image.open(DATA / name) as image:
                assert not any(side % sheets.CELL for side in image.size), name


def test_no_record_shows_the_images_or_asks_the_questions_of_the_recommended_cases(records: list[Record]) -> None:
    used = {name for record in records for name in record.images}
    shipped = {f"images/{path.name}" for path in (DATA / "images").iterdir()}
    assert shipped - used == {"images/recommended_cbc.png", "images/recommended_chest.png"}
    assert not facts.RESERVED.keys() & {record.cluster for record in records}
    assert {facts.world(record.cluster) for record in records if not record.cluster.startswith("照片")} == {"demo"}


def test_a_span_stresses_right_facts_and_marks_wrong_ones(records: list[Record]) -> None:
    spans = [(record, span) for record in records for span in record.spans]
    assert all(span.end <= len(record.answer) for record, span in spans)
    assert all((span.weight > 1) == (record.label == 1) for record, span in spans)
    assert all(span.weight < 0 for record, span in spans if record.label == 0)
    undesirable = [bool(record.spans) for record in records if record.label == 0]
    assert 0.3 < sum(undesirable) / len(undesirable) < 0.7


def test_the_two_answers_of_a_pair_answer_the_same_prompt(records: list[Record]) -> None:
    pairs = defaultdict(list)
    for record in records:
        if record.pair:
            pairs[record.pair].append(record)
    assert pairs and all(sorted(r.label for r in pair) == [0, 1] for pair in pairs.values())
    assert all(len({(r.prompt, r.images, r.cluster) for r in pair}) == 1 for pair in pairs.values())


def test_the_same_image_never_has_two_clusters(records: list[Record]) -> None:
    by_pixels = defaultdict(set)
    for record in records:
        for name in record.images:
            by_pixels[(DATA / name).read_bytes()].add(record.cluster)
    assert all(len(clusters) == 1 for clusters in by_pixels.values())


def test_the_generator_makes_the_committed_records_again(tmp_path: Path) -> None:
    for package in ("faker_healthcare", "pylopdf_fonts_zh_cn", "skimage", "pydicom"):
        pytest.importorskip(package, reason="the extra `demo` is not installed")
    from tools import make_demo_data

    make_demo_data.main(["--out", str(tmp_path)])
    for name in (*(f"{dimension}.jsonl" for dimension in DIMENSIONS), "SOURCE_CARD.md"):
        assert (tmp_path / name).read_text("utf-8") == (DATA / name).read_text("utf-8"), name


# Model


def test_both_folders_are_small_enough_for_git() -> None:
    for folder in (DATA, MODEL):
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < LIMIT


def test_every_row_of_the_embedding_has_a_token(words: Tokenizer) -> None:
    config = json.loads((MODEL / "config.json").read_text("utf-8"))
    weights, header = mx.load(str(MODEL / "model.safetensors"), return_metadata=True)
    assert header == {"format": "mlx"}
    assert config["text_config"]["vocab_size"] == words.get_vocab_size()
    assert weights["language_model.model.embed_tokens.weight"].shape[0] == words.get_vocab_size()
    assert config["image_token_id"] == words.token_to_id("<|image_pad|>")
    assert config["vision_config"]["deepstack_visual_indexes"]


def test_chinese_signs_and_rare_characters_come_back_as_they_went_in(words: Tokenizer) -> None:
    text = "血压140/90mmHg（±5）、𠮷🙂\n ×10⁹/L"
    assert words.decode(words.encode(text).ids) == text


def test_transformers_reads_the_tokenizer_with_the_same_ids(words: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(MODEL))
    text = "<|im_start|>user\n体温38.6℃，怎么办？<|im_end|>\n"
    assert len(theirs) == words.get_vocab_size()
    assert theirs.encode(text) == words.encode(text).ids
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


def test_the_model_says_what_its_image_shows(loaded: tuple[Any, Any]) -> None:
    import mlx_vlm

    model, processor = loaded
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


# Pre-training


def test_a_lesson_is_encoded_as_the_processor_encodes_it(loaded: tuple[Any, Any], words: Tokenizer) -> None:
    pytest.importorskip("pylopdf_fonts_zh_cn", reason="the extra `demo` is not installed")
    _, processor = loaded
    sheet = sampling.sheet(random.Random(3), "pretraining")
    asked, said = IMAGE_MARKER + "读出来。", "血常规。"
    lesson = corpus.Lesson((Message(role="user", content=asked), Message(role="assistant", content=said)), sheet)
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "读出来。"}]},
        {"role": "assistant", "content": said},
    ]
    theirs = processor(images=[sheets.render(sheet)], text=[processor.apply_chat_template(turns, tokenize=False)])
    ids, answer = pretraining.encode(lesson, words)
    pixels, grid = vision_pretraining.patches(sheet)
    assert theirs["input_ids"].tolist()[0][:-1] == ids
    assert words.decode(ids[answer:], skip_special_tokens=False) == said + "<|im_end|>"
    assert theirs["image_grid_thw"].tolist() == [list(grid)]
    np.testing.assert_allclose(np.array(theirs["pixel_values"]), pixels, atol=1e-5)


def test_each_visual_token_of_an_image_is_told_what_stands_in_its_own_cell() -> None:
    pytest.importorskip("pylopdf_fonts_zh_cn", reason="the extra `demo` is not installed")
    rng = random.Random(4)
    for shown in (sampling.sheet(rng, "pretraining"), sampling.picture(rng, "pretraining")):
        width, height = sheets.render(shown).size
        assert len(sheets.cells(shown)) == len(vision_pretraining.labels(shown)) == width * height // sheets.CELL**2
    row = sheets.Row("白细胞", "12.6", "高")
    told = sheets.cells(sheets.Sheet("血常规", (row,)))[sheets.COLUMNS :]
    assert [left + right for left, right, _ in told] == ["", "", "", "12", ".6", "高高", ""]
    assert {topic for _, _, topic in told} == {"血常规白细胞"}


class Killed(Exception):
    """The run ends here."""


def test_a_pretraining_stopped_on_the_way_ends_with_the_same_weights(
    tmp_path: Path, words: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("faker_healthcare", "pylopdf_fonts_zh_cn"):
        pytest.importorskip(package, reason="the extra `demo` is not installed")
    recipe = pretraining.Recipe(eye_steps=2, eye_images=4, steps=4, text_rows=2, image_rows=1, warmup=1)
    shape = blueprint.Shape(
        vocabulary=words.get_vocab_size(), hidden=32, layers=2, heads=2, kv_heads=2, intermediate=32,
        vision_hidden=16, vision_layers=1, vision_heads=1, vision_intermediate=16, deepstack=(0,),
    )  # fmt: skip
    config = blueprint.config(shape, words)

    def fitted(scratch: Path) -> mx.array:
        model = random_model.random_model(config, seed=0)
        pretraining.fit(model, words, recipe, scratch, save_every=2)
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


# Twins


@pytest.mark.parametrize(("moe", "bits"), [(False, None), (True, None), (True, 4), (False, 8)])
def test_a_twin_loads_in_both_libraries_with_equal_logits_and_sees_its_image(
    moe: bool, bits: int | None, tmp_path: Path
) -> None:
    import mlx_lm
    import mlx_vlm

    folder = random_model.write_twin(tmp_path, moe=moe, bits=bits, layers=2)
    model, processor = mlx_vlm.load(str(folder))
    text_model, text_tokenizer = mlx_lm.load(str(folder))
    ids = mx.array([text_tokenizer.encode("血压150/95，正常吗？")])
    assert mx.allclose(model(ids).logits, text_model(ids), atol=1e-4)
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    text = "<|vision_start|><|image_pad|><|vision_end|>看"
    seen = [processor(images=[Image.fromarray(pixels)], text=[text]) for pixels in noise]
    first, second = (
        model(one["input_ids"], one["pixel_values"], image_grid_thw=one["image_grid_thw"]).logits for one in seen
    )
    assert mx.abs(first - second).max() > 0.1
