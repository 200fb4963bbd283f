"""What preparation encodes is what training sees, is used again, and heals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medtune.data import encodings
from medtune.dataset import Dataset
from medtune.model.base import Base
from medtune.model.renderer import Example, Renderer
from medtune.records import Record
from tests.workshop import write_dataset


@pytest.fixture(scope="module")
def prepared(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("encodings"), demo_model)


@pytest.fixture
def dataset(prepared: Path, tmp_path: Path) -> Dataset:
    """A copy that a test may damage."""
    import shutil

    return Dataset.open(shutil.copytree(prepared, tmp_path / "dataset"))


class Counting(Renderer):
    """Counts what it has to encode."""

    encoded = 0

    def encode(self, record: Record, root: Path) -> Example:
        self.encoded += 1
        return super().encode(record, root)


def read(dataset: Dataset, model: Path, split: str = "train") -> tuple[list[Example], int]:
    """The examples of a split and how many had to be encoded for them."""
    renderer = Counting(Base.find(str(model)))
    return list(encodings.examples(dataset, split, dataset.split(split), renderer)), renderer.encoded


def same(a: Example, b: Example) -> bool:
    arrays = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("tokens", "token_weights", "answer"))
    rest = ("id", "images", "image_tokens", "dim", "label", "content", "key")
    return arrays and all(getattr(a, name) == getattr(b, name) for name in rest)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_prepared_record_is_not_encoded_again_and_is_the_same_example(dataset: Dataset, demo_model: Path, split: str):
    found, encoded = read(dataset, demo_model, split)
    renderer = Renderer(Base.find(str(demo_model)))
    assert encoded == 0 and any(example.images for example in found)
    assert all(same(a, renderer.encode(r, dataset.root)) for a, r in zip(found, dataset.split(split), strict=True))


def test_a_damaged_encoding_is_made_again_and_no_other(dataset: Dataset, demo_model: Path):
    before, _ = read(dataset, demo_model)
    sizes = json.loads((dataset.root / "encodings/index.json").read_text())["sizes"]["train"]
    path = dataset.root / "encodings/train.bin"
    for place in (sizes[0] + 3, sizes[0] + sizes[1] // 2, sum(sizes[:2]) - 1):
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
        found, encoded = read(dataset, demo_model)
        assert encoded == 1 and all(map(same, found, before))


@pytest.mark.parametrize("damage", ["gone", "cut", "no index", "another file", "no json"])
def test_encodings_that_are_not_of_these_files_are_not_used(dataset: Dataset, demo_model: Path, damage: str):
    folder = dataset.root / "encodings"
    index = json.loads((folder / "index.json").read_text())
    if damage == "gone":
        (folder / "train.bin").unlink()
    elif damage == "cut":
        (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-1])
    elif damage == "no index":
        (folder / "index.json").unlink()
    elif damage == "another file":
        index["splits"]["train"] = "0" * 64
        (folder / "index.json").write_text(json.dumps(index))
    else:
        (folder / "index.json").write_text("[]")
    found, encoded = read(dataset, demo_model)
    assert encoded == len(found) > 0


def test_another_template_is_encoded_with_itself(dataset: Dataset, demo_model: Path, tmp_path: Path):
    import shutil

    other = Path(shutil.copytree(demo_model, tmp_path / "model"))
    template = (other / "chat_template.jinja").read_text(encoding="utf-8")
    (other / "chat_template.jinja").write_text(template + " ", encoding="utf-8")
    found, encoded = read(dataset, other)
    assert encoded == len(found)
