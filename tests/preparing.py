"""A folder to prepare data in, and rows to prepare."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from medtune import cli
from medtune.dataset import Dataset
from medtune.records import SPLITS, Record
from tools import prepare_data

SETTINGS: dict[str, Any] = {
    "sources": [],
    "system_prompt": "",
    "max_seq_length": 512,
    "max_image_edge": 64,
    "valid_fraction": 0.1,
    "test_fraction": 0.1,
    "seed": 0,
    "privacy": "reject",
    "dedup": "exact",
}


class Bench:
    """A folder to prepare data in."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.raw, self.out = folder, folder / "raw", folder / "out"
        self.raw.mkdir()
        self.config = folder / "data.yaml"
        self.config.write_text(yaml.safe_dump({"tokenizer": str(model), **SETTINGS}, allow_unicode=True))

    def write(self, name: str, rows: Iterable[Any]) -> Path:
        """Write JSON lines into the raw folder."""
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    def image(self, name: str, colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (48, 32)) -> None:
        """Write one image into the raw folder."""
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)

    def run(self, *arguments: str, sources: Iterable[Path] = ()) -> int:
        """Run the tool on the raw folder, or on ``sources``."""
        named = [str(source) for source in sources] or [str(self.raw)]
        return cli.call(prepare_data.main, [*named, "--config", str(self.config), "--out", str(self.out), *arguments])

    def rejected(self) -> list[tuple[int, str]]:
        """Line and reason of every rejected row."""
        lines = (self.out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
        return [(row["line"], row["reason"]) for row in map(json.loads, lines)]

    def records(self) -> dict[str, list[Record]]:
        """The records of each split."""
        dataset = Dataset.open(self.out)
        return {name: dataset.split(name) for name in SPLITS}

    def all(self) -> dict[str, Record]:
        """All records by id."""
        return {record.id: record for split in self.records().values() for record in split}


def turns(question: str, answer: str) -> list[dict[str, str]]:
    """One question and its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def talk(number: int, **fields: Any) -> dict[str, Any]:
    """A sound record, different for every number."""
    messages = turns(f"血压{number}/90正常吗？", f"{number}/90需要复查。")
    return {"id": f"r{number}", "source": "test", "messages": messages, **fields}
