"""Splits: groups stay whole, fractions hold per dimension, the seed decides, growth moves little."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from medtune.data.splits import Groups, assign

FRACTIONS = {"test": 0.1, "valid": 0.2}


def groups(count: int, dim: str = "accuracy", size: int = 1) -> dict[str, Counter[str]]:
    return {f"{dim}{number}": Counter({dim: size}) for number in range(count)}


def sizes(assigned: dict[str, str], of: dict[str, Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for name, split in assigned.items():
        total[split] += of[name].total()
    return total


@pytest.mark.parametrize("count", [50, 333, 1000])
def test_fractions_are_met_in_every_dimension(count: int) -> None:
    parts = [groups(count, "accuracy"), groups(count // 2, "warmth", size=3), groups(count, "vision", size=2)]
    assigned = assign({name: counts for part in parts for name, counts in part.items()}, FRACTIONS, seed=3)
    for part in parts:
        found = sizes({name: assigned[name] for name in part}, part)
        for split, fraction in FRACTIONS.items():
            assert abs(found[split] - fraction * found.total()) <= 3


def test_the_seed_decides_and_the_order_of_groups_does_not() -> None:
    made = groups(200)
    shuffled = dict(random.Random(1).sample(sorted(made.items()), len(made)))
    assert assign(made, FRACTIONS, 0) == assign(shuffled, FRACTIONS, 0) != assign(made, FRACTIONS, 1)


def test_new_groups_bring_no_test_record_into_train() -> None:
    before, after = assign(groups(1000), FRACTIONS, 0), assign(groups(1100), FRACTIONS, 0)
    moved = [name for name, split in before.items() if split == "test" and after[name] == "train"]
    assert not moved


def test_a_group_larger_than_a_split_goes_to_train() -> None:
    made = groups(20) | {"huge": Counter(accuracy=100)}
    for seed in range(20):
        assigned = assign(made, FRACTIONS, seed)
        assert assigned["huge"] == "train" and set(assigned.values()) == {"train", "valid", "test"}


def test_a_small_dimension_is_in_every_split_and_a_fraction_of_zero_means_none() -> None:
    assert set(assign(groups(3), {"test": 0.05, "valid": 0.05}, 0).values()) == {"train", "valid", "test"}
    assert set(assign(groups(100), {"test": 0.0, "valid": 0.1}, 0).values()) == {"train", "valid"}


def test_records_are_one_group_through_any_chain_of_links() -> None:
    chain = [["patient 1", "image a"], ["image b", "patient 2"], ["image c"], ["image a", "image b"]]
    for order in (chain, chain[::-1]):
        joined = Groups()
        for links in order:
            joined.join(links)
        assert len({joined.of(link) for link in ("patient 1", "patient 2", "image a", "image b")}) == 1
        assert joined.of("image c") != joined.of("image a")
        assert joined.of("patient 1") == "image a"
