"""Repeats: the same conversation twice, or almost the same.

Two conversations are near when the Jaccard similarity of their character 5-grams is at least 0.8 (MinHash, estimated
to about 0.035) *and* they show the same images, the same figures and the same words of polarity: 150/95 and 160/105,
or 有阴影 and 无阴影, are different cases however alike the sentences are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

import numpy as np
from rensa import RMinHash, RMinHashLSH  # pyright: ignore[reportAttributeAccessIssue]  compiled, without stubs

from medtune.data.rejections import Rejected
from medtune.files import hash_of
from medtune.records import Record

GRAM = 5  # characters
SIMILAR = 0.8
PERMUTATIONS, BANDS = 128, 32  # 32 bands of 4 rows find a pair of similarity 0.8 with probability 1 - 5e-8
FACTS = re.compile(r"\d+(?:\.\d+)?|[零一二两三四五六七八九十百千半]+|[不无没未非有阴阳高低升降增减左右男女早晚孕]")
NOISE = re.compile(r"[^\w.]|_|(?<!\d)\.|\.(?!\d)")


class Repeats:
    """What was seen so far; ``check`` each record once, in order."""

    def __init__(self, mode: Literal["off", "exact", "near"]) -> None:
        self.mode = mode
        self._seen: dict[str, tuple[str, int]] = {}  # content hash: (id, label)
        self._near: list[tuple[str, np.ndarray]] = []  # (id, MinHash digest)
        self._index = RMinHashLSH(threshold=SIMILAR, num_perm=PERMUTATIONS, num_bands=BANDS)

    def check(self, record: Record) -> None:
        """Raise ``Rejected`` when the record repeats an earlier one; remember it otherwise."""
        if self.mode == "off":
            return
        name, label = self._seen.setdefault(record.hash, (record.id, record.label))
        if name != record.id:
            raise Rejected("duplicate" if label == record.label else "contradiction", name)
        if self.mode == "near":
            self._check_near(record)

    def _check_near(self, record: Record) -> None:
        text = "|".join(plain(turn.content) for turn in record.messages if turn.role != "system")
        case = hash_of([record.label, record.images, *facts(text)])[:12]
        minhash = RMinHash(num_perm=PERMUTATIONS, seed=0)
        # the case is part of every gram: records of different cases have none in common and are never compared
        minhash.update([case + gram for gram in grams(text)])
        digest = np.array(minhash.digest(), np.uint32)
        for key in self._index.query(minhash):
            name, its_digest = self._near[key]
            if (digest == its_digest).mean() >= SIMILAR:
                raise Rejected("near_duplicate", name)
        self._index.insert(len(self._near), minhash)
        self._near.append((record.id, digest))


def grams(text: str) -> list[str]:
    """The character 5-grams of a text, repeats included; a shorter text is its own."""
    return [text[start : start + GRAM] for start in range(max(1, len(text) - GRAM + 1))]


def facts(text: str) -> Sequence[str]:
    """The figures and words of polarity in a text, each once, sorted."""
    return sorted(set(FACTS.findall(text)))


def plain(text: str) -> str:
    """Lower case, half width, without signs and spaces; a decimal point stays."""
    return NOISE.sub("", unicodedata.normalize("NFKC", text).lower())
