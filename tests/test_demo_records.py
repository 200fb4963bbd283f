"""The demo's records keep their promises."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image

from medtune import checks
from medtune.demo import sheets, worlds
from medtune.records import DIMENSIONS, IMAGE_MARKER, Record
from tests.demoassets import DATA


@pytest.fixture(scope="module")
def records() -> list[Record]:
    lines = [line for name in DIMENSIONS for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]
    return [Record.model_validate_json(line) for line in lines]


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
    assert not worlds.RESERVED.keys() & {record.cluster for record in records}
    assert {worlds.of(record.cluster) for record in records if not record.cluster.startswith("照片")} == {"demo"}


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
