"""Every answer of an evaluation, on disk before it is scored: nothing that was said once is generated again.

Each row carries a checksum of itself: a damaged one is not there, for anybody who reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from medtune import files
from medtune.evaluation.items import Item
from medtune.files import Json

SideName = Literal["baseline", "tuned"]


@dataclass(frozen=True)
class Side:
    """One of the two models compared: the base, or the base with the adapters of a run folder.

    ``identity`` hashes everything but the prompt that decides an answer.
    """

    model: SideName
    adapters: Path | None
    identity: str

    def key(self, item: Item) -> str:
        """Hash that is the same exactly when the answer is."""
        return files.hash_of([self.identity, item.prompt_hash])


@dataclass(frozen=True)
class Prediction:
    """One answer as it stands in the file; ``seconds`` is its share of its batch's time."""

    key: str
    answer: str
    tokens: int
    finish: str
    seconds: float


SHOWN = {"id", "model", "split", "dim", "prompt", "images", "reference", "answer", "finish"}  # in every row
ROW = {*SHOWN, *Prediction.__dataclass_fields__}


class Predictions:
    """The answers stored at ``path``, by key; the file is replaced as a whole, so a killed run leaves a whole one.

    ``damaged``: how many rows were not read, since they are not as they were written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found, self.damaged = read(path)
        names = Prediction.__dataclass_fields__
        stored = [Prediction(**{name: row[name] for name in names}) for row in found if set(names) <= set(row)]
        self._found = {prediction.key: prediction for prediction in stored}

    def missing(self, side: Side, items: Sequence[Item]) -> list[Item]:
        """The items this model has not answered yet."""
        return [item for item in items if side.key(item) not in self._found]

    def add(self, found: Iterable[Prediction]) -> None:
        """Remember answers; ``save`` writes them."""
        self._found |= {prediction.key: prediction for prediction in found}

    def of(self, side: Side, item: Item) -> Prediction:
        """The answer of one model to one item."""
        return self._found[side.key(item)]

    def speed(self, items: Sequence[Item], sides: Sequence[Side]) -> float:
        """Generated tokens per second, prompts' time included, over all answers whenever they were generated."""
        found = [self.of(side, item) for side in sides for item in items]
        return round(sum(p.tokens for p in found) / max(1e-9, sum(p.seconds for p in found)), 1)

    def save(self, items: Sequence[Item], sides: Sequence[Side]) -> None:
        """Write the answers there are to ``items``, and no others, item by item."""
        rows = [
            _row(item, side, self._found[side.key(item)])
            for item in items
            for side in sides
            if side.key(item) in self._found
        ]
        files.write_jsonl(self.path, rows)


def read(path: Path) -> tuple[list[Json], int]:
    """The rows as they were written, and how many others there are; none where there is no file."""
    rows = list(files.read_sealed(path))
    found = [row for row in rows if row is not None and SHOWN <= set(row) <= ROW]
    return found, len(rows) - len(found)


def _row(item: Item, side: Side, prediction: Prediction) -> str:
    row: Json = {
        "id": item.id,
        "model": side.model,
        "split": item.split,
        "dim": item.dim,
        "prompt": [message.model_dump() for message in item.prompt],
        "images": files.without_home([str(path) for path in item.images]),
        "reference": item.reference,
        **asdict(prediction),
    }
    return json.dumps(files.sealed(row), ensure_ascii=False)
