"""Splits: groups of records that belong together are drawn into train, valid or test as a whole."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping


class Groups:
    """Records that share a link (patient, image, prompt) directly or through others are one group (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, links: Iterable[str]) -> None:
        """Say that these links belong to one record."""
        first, *others = (self.of(link) for link in links)
        for other in others:
            low, high = sorted((first, other))
            self._parent[high] = first = low  # the smallest name: the order of records does not matter

    def of(self, link: str) -> str:
        """The name of the group a link belongs to."""
        self._parent.setdefault(link, link)
        root = link
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[link] != root:  # later questions get shorter ways
            self._parent[link], link = root, self._parent[link]
        return root


def assign(groups: Mapping[str, Counter[str]], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """The split of each group, from its number of records per dimension.

    In each dimension the groups stand in an order drawn from ``seed`` and their names; the first fill the splits of
    ``fractions`` in turn, the others are train. New groups move the boundaries a little and leave the order alone.
    A dimension with enough groups has one in every split whose fraction is above 0.
    """
    by_dimension: dict[str, list[str]] = defaultdict(list)
    for name, counts in groups.items():
        by_dimension[min(counts, key=lambda dim: (-counts[dim], dim))].append(name)
    splits = dict.fromkeys(groups, "train")
    for names in by_dimension.values():
        names.sort(key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        splits.update(_fill({name: groups[name].total() for name in names}, fractions))
    return splits


def _fill(sizes: dict[str, int], fractions: Mapping[str, float]) -> dict[str, str]:
    """Splits of the groups that are not train; a group goes where it brings the split nearer to its target."""
    total = sum(sizes.values())
    chosen: dict[str, str] = {}
    for split, fraction in fractions.items():
        target = fraction * total
        if len(sizes) > len(fractions):
            target = max(target, 1) if fraction else 0
        have = 0
        for name, size in sizes.items():
            if name not in chosen and abs(target - have - size) < abs(target - have):
                have += size
                chosen[name] = split
    return chosen
