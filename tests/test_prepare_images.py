"""prepare_data: the images of a data set are small copies of its own, named by what they show."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.preparing import Bench, talk, turns


@pytest.fixture
def bench(tmp_path: Path, demo_model: Path) -> Bench:
    return Bench(tmp_path, demo_model)


def test_images_are_small_rgb_copies_named_by_content(bench: Bench) -> None:
    bench.image("in/a.png", size=(200, 100))
    bench.image("in/b.png", size=(200, 100))
    rows = [talk(n, messages=turns("<image>看", f"好{n}"), images=[f"{'ab'[n % 2]}.png"]) for n in range(10)]
    bench.write("in/a.jsonl", rows)
    assert bench.run("--set", "valid_fraction=0.0", "--set", "test_fraction=0.0") == 0
    names = {name for record in bench.all().values() for name in record.images}
    assert len(names) == 1
    with Image.open(bench.out / names.pop()) as image:
        assert image.size == (64, 32) and image.mode == "RGB"
    assert all(record.dim == "accuracy" for record in bench.all().values() if not record.images)
    assert {record.dim for record in bench.all().values() if record.images} == {"vision"}


def test_a_persons_pictures_in_the_folder_stay(bench: Bench) -> None:
    own = bench.out / "images" / "family.png"
    own.parent.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(own)
    bench.write("a.jsonl", [talk(n) for n in range(10)])
    assert bench.run() == 0 and own.exists()
    assert bench.run("--set", "seed=1") == 0 and own.exists()


def test_an_image_that_arrives_later_is_taken_in(bench: Bench) -> None:
    rows = [talk(n) for n in range(10)] + [talk(30, messages=turns("<image>看", "好"), images=["a.png"])]
    bench.write("a.jsonl", rows)
    assert bench.run() == 0 and bench.rejected() == [(11, "image_missing")]
    bench.image("a.png")
    assert bench.run() == 0 and bench.rejected() == []


def test_a_base64_image_of_a_chat_export_becomes_a_file(bench: Bench) -> None:
    import base64

    data = io.BytesIO()
    Image.new("RGB", (30, 30), (9, 99, 9)).save(data, "JPEG")
    url = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    content = [{"type": "text", "text": "看"}, {"type": "image_url", "image_url": {"url": url}}]
    rows = [{"messages": [{"role": "user", "content": content}, turns("", f"好{n}")[1]]} for n in range(3)]
    bench.write("a.jsonl", rows)
    assert bench.run() == 0
    assert {(record.messages[0].content, len(record.images)) for record in bench.all().values()} == {("看<image>", 1)}
