"""What a run will be fed: how many tokens there are, and how long the longest example is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.model import padding
from medtune.receipt import MANIFEST, Receipt


@dataclass(frozen=True)
class Load:
    """Size of the examples of train and valid together."""

    records: int
    tokens: int  # images included
    image_tokens: int
    supervised: float  # share of the tokens that the loss looks at
    longest: int  # tokens of the longest example
    image: int = 0  # visual tokens of a large image
    assumed: bool = False  # nobody counted: there is no data set yet

    @classmethod
    def of(cls, results: dict[str, Any]) -> Load:
        """The load of a prepared data set, from its manifest's results."""
        splits = [results["splits"][name] for name in ("train", "valid")]
        tokens = sum(split["tokens"] for split in splits)
        image_tokens = sum(split["image_tokens"] for split in splits)
        pictured = sum(split["dimensions"]["vision"][kind] for split in splits for kind in ("desirable", "undesirable"))
        return cls(
            records=sum(split["records"] for split in splits),
            tokens=tokens,
            image_tokens=image_tokens,
            supervised=sum(split["supervised_tokens"] for split in splits) / max(tokens, 1),
            longest=results["max_tokens"],
            image=min(2 * image_tokens // max(pictured, 1), results["max_tokens"]),
        )

    @classmethod
    def guess(cls) -> Load:
        """2,000 records of 256 tokens, a third of them in images; the longest as long as the profiles allow."""
        return cls(
            records=2000, tokens=512_000, image_tokens=170_000, supervised=0.4, longest=2048, image=1024, assumed=True
        )

    @classmethod
    def find(cls, data: Path) -> Load:
        """The load of the data set in ``data``, or the guess where there is none yet."""
        manifest = Receipt.found(data / MANIFEST)
        return cls.of(manifest.results) if manifest else cls.guess()

    @property
    def padded(self) -> int:
        """Length of the longest batch."""
        return padding.padded(self.longest)
