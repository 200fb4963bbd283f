"""The statistics of a comparison: published vectors, exactness, and honesty under the null."""

from __future__ import annotations

import itertools
import math
import random
import time
import tracemalloc

import numpy as np
import pytest

from medtune.evaluation.statistics import Pair, compare, holm, mcnemar, sign_flip, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 100, 0.0, 0.0370), (5, 100, 0.0215, 0.1118), (120, 200, 0.5308, 0.6654), (90, 100, 0.8256, 0.9448)],
)
def test_wilson_interval_equals_the_published_vectors(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_no_failure_in_300_still_allows_one_percent() -> None:
    assert wilson(0, 300)[1] == pytest.approx(0.0126, abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("b", "c", "p"), [(30, 12, 0.00792), (10, 2, 0.03857), (60, 40, 0.05689), (0, 0, 1.0)])
def test_mcnemar_equals_the_published_vectors(b: int, c: int, p: float) -> None:
    assert mcnemar(b, c) == pytest.approx(p, abs=5e-6)
    assert mcnemar(c, b) == mcnemar(b, c)


def test_holm_adjusts_in_order_and_never_lowers() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == pytest.approx({"a": 1.0, "b": 1.0})


FLIPPED = [0.3, -0.1, 0.2, 0.5, 0.1, -0.2, 0.4, 0.05, 0.15, -0.3, 0.25, 0.6]


def test_sign_flips_are_exact_for_few_items_and_agree_with_sampling_for_many() -> None:
    assert sign_flip([1.0, 1.0, 1.0, 1.0]) == pytest.approx(2 / 16)
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([*FLIPPED, 0.0, 0.0]) == sign_flip(FLIPPED)
    values = [*FLIPPED, 0.07]
    exact, sampled = sign_flip(values, resamples=2**13), sign_flip(values, seed=3, resamples=2**13 - 1)
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("count", range(1, 13))
def test_the_exact_p_is_the_share_of_all_signs_whose_sum_is_as_far_from_zero(count: int) -> None:
    values = FLIPPED[:count]
    sums = [sum(sign * value for sign, value in zip(signs, values, strict=True))
            for signs in itertools.product((1, -1), repeat=count)]  # fmt: skip
    extreme = sum(abs(one) >= abs(sum(values)) - 1e-12 for one in sums)
    assert sign_flip(values) == pytest.approx(extreme / 2**count)


def test_sampled_signs_never_give_a_p_of_zero_and_depend_on_the_seed_alone() -> None:
    assert 0 < sign_flip([1.0] * 400) <= 2 / 10_001
    values = [(-1) ** n * 0.1 + n / 3000 for n in range(60)]
    assert sign_flip(values, seed=1) == sign_flip(values, seed=1) != sign_flip(values, seed=2)


@pytest.mark.model("compares 3,000 items, which takes seconds")
def test_thousands_of_items_are_compared_in_seconds_and_bounded_memory() -> None:
    rng = np.random.default_rng(0)
    pairs = [Pair(float(a), float(b), f"c{i // 2}") for i, (a, b) in enumerate(rng.random((3000, 2)))]
    tracemalloc.start()
    began = time.perf_counter()
    compare(pairs)
    took, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 20 and peak < 300 * 2**20


def test_means_and_difference_are_those_of_the_items() -> None:
    pairs = [Pair(0.0, 1.0, "a"), Pair(0.5, 0.5, "b"), Pair(1.0, 0.5, "c"), Pair(0.25, 1.0, "d")]
    found = compare(pairs)
    assert (found.n, found.clusters) == (4, 4)
    assert (found.baseline, found.tuned) == pytest.approx((0.4375, 0.75))
    assert found.delta == pytest.approx(0.3125)
    assert found.ci_low <= found.delta <= found.ci_high


def test_the_overall_mean_is_weighted_by_stratum_and_not_by_its_size() -> None:
    pairs = [Pair(0.0, 1.0, f"a{i}", "accuracy") for i in range(2)]
    pairs += [Pair(0.0, 0.0, f"v{i}", "vision") for i in range(20)]
    found = compare(pairs, {"accuracy": 0.75, "vision": 0.25, "warmth": 0.35})
    assert found.delta == pytest.approx(0.75)


def test_the_interval_of_independent_items_is_close_to_the_normal_one() -> None:
    rng = np.random.default_rng(1)
    deltas = rng.normal(0.1, 0.2, 400)
    found = compare([Pair(0.0, float(delta), str(i)) for i, delta in enumerate(deltas)])
    error = float(np.std(deltas, ddof=1)) / math.sqrt(400)
    assert found.ci_low == pytest.approx(found.delta - 1.96 * error, abs=0.004)
    assert found.ci_high == pytest.approx(found.delta + 1.96 * error, abs=0.004)
    assert found.detectable == pytest.approx(2.8016 * error, rel=0.01)


def test_twelve_copies_of_an_item_are_one_observation() -> None:
    rng = random.Random(2)
    deltas = [rng.gauss(0.05, 0.3) for _ in range(40)]
    single = compare([Pair(0.0, delta, f"c{i}") for i, delta in enumerate(deltas)])
    copies = compare([Pair(0.0, delta, f"c{i}") for i, delta in enumerate(deltas) for _ in range(12)])
    assert copies.ci_high - copies.ci_low == pytest.approx(single.ci_high - single.ci_low, rel=1e-6)
    assert copies.p == pytest.approx(single.p, abs=0.02)


def test_binary_scores_of_independent_items_get_the_exact_test_and_clusters_do_not() -> None:
    pairs = [Pair(0.0, 1.0, f"f{i}") for i in range(10)] + [Pair(1.0, 0.0, f"r{i}") for i in range(2)]
    assert (compare(pairs).test, compare(pairs).p) == ("mcnemar", pytest.approx(0.03857, abs=5e-6))
    assert compare([Pair(p.baseline, p.tuned, p.cluster[:2]) for p in pairs] * 2).test == "sign_flip"


def test_a_cluster_over_two_dimensions_is_drawn_as_one() -> None:
    pairs = [Pair(0.0, 1.0, f"c{i}", dim) for i in range(4) for dim in ("accuracy", "vision")]
    found = compare(pairs, {"accuracy": 0.5, "vision": 0.5})
    assert (found.clusters, found.delta, found.ci_low, found.ci_high) == (4, 1.0, 1.0, 1.0)


def test_without_a_true_difference_at_most_about_one_in_twenty_is_called_real() -> None:
    rng = np.random.default_rng(7)
    rejected = covered = 0
    for trial in range(200):
        shared = rng.normal(0, 0.3, 40)  # each cluster's own luck, common to its three items
        scores = rng.random((40, 3, 2)) * 0.5
        pairs = [
            Pair(float(scores[c, i, 0]), float(scores[c, i, 1] + shared[c]), str(c))
            for c in range(40)
            for i in range(3)
        ]
        found = compare(pairs, seed=trial, resamples=1000)
        rejected += found.p < 0.05
        covered += found.ci_low <= 0 <= found.ci_high
    assert rejected <= 20  # expected 10; more than 20 of 200 has probability 0.1 % at 5 %
    assert covered >= 178


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = random.Random(5)
    pairs = [Pair(rng.random(), rng.random(), str(i)) for i in range(30)]
    assert compare(pairs, seed=3) == compare(pairs, seed=3)
    assert compare(pairs, seed=3) != compare(pairs, seed=4)
