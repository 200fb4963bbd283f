"""The gate: it opens for figures that reach what is wanted and for no others; what it found is facts, not words."""

from __future__ import annotations

import json
from math import inf, nan
from typing import Any

import pytest

from medtune.evaluation.gate import gate, sentence
from medtune.schemas import Gate


def wanted(**changes: Any) -> Gate:
    values = {"accuracy": -0.02, "warmth": -0.02, "vision": -0.02, "superior": 1, "pass_rate": {"referral": 0.9}}
    return Gate.model_validate(values | changes)


def measured(accuracy: Any = 0.1, warmth: Any = 0.0) -> dict[str, Any]:
    return {"accuracy": {"ci_low": accuracy}, "warmth": {"ci_low": warmth}}


def of_checks(passed: Any = 95, n: Any = 100) -> dict[str, Any]:
    return {"referral": {"n": n, "passed": {"baseline": 0, "tuned": passed}}}


def test_figures_that_reach_what_is_wanted_pass() -> None:
    assert gate(measured(), of_checks(), wanted()) == {"passed": True, "failures": [], "unmeasured": []}


def test_what_is_exactly_wanted_is_enough() -> None:
    assert gate(measured(warmth=-0.02), of_checks(90), wanted())["passed"]
    for percent in range(101):
        assert gate({}, of_checks(percent), wanted(pass_rate={"referral": percent / 100}))["passed"], percent


def test_every_condition_that_is_not_met_is_a_fact_of_its_own() -> None:
    found = gate(measured(-0.01, -0.05), of_checks(80), wanted())
    assert not found["passed"]
    low, high = found["failures"][-1].pop("low"), found["failures"][-1].pop("high")
    assert 0.7 < low < 0.8 < high < 0.9
    assert found["failures"] == [
        {"kind": "dimension", "dim": "warmth", "low": -0.05, "wanted": -0.02},
        {"kind": "superior", "better": 0, "wanted": 1},
        {"kind": "pass_rate", "check": "referral", "passed": 80, "n": 100, "wanted": 0.9},
    ]


@pytest.mark.parametrize("missing", [nan, None, inf, -inf, "0.5"])
def test_a_figure_that_is_missing_or_no_number_passes_nothing(missing: Any) -> None:
    assert [f["kind"] for f in gate(measured(missing), of_checks(), wanted())["failures"]] == ["dimension", "superior"]
    assert [f["kind"] for f in gate(measured(), of_checks(missing), wanted())["failures"]] == ["pass_rate"]
    assert [f["kind"] for f in gate(measured(), of_checks(n=missing), wanted())["failures"]] == ["pass_rate"]
    assert not gate({"vision": {}}, {}, wanted(superior=0))["passed"]
    assert not gate(measured(), {"referral": {}}, wanted())["passed"]


@pytest.mark.parametrize("dims", [measured(nan, None), measured(-1.0, -1.0)])
@pytest.mark.parametrize("kinds", [of_checks(nan), of_checks(n=0), of_checks(0)])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_failure_can_be_kept_as_json_and_said(dims: Any, kinds: Any, lang: Any) -> None:
    failures = json.loads(json.dumps(gate(dims, kinds, wanted())["failures"], allow_nan=False))
    said = [sentence(failure, lang) for failure in failures]
    assert len(said) == 4 and all(said) and not any(word in line for line in said for word in ("None", "nan", "{"))


def test_what_is_kept_does_not_depend_on_the_language_of_who_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    for lang in ("zh", "en"):
        monkeypatch.setenv("MEDTUNE_LANG", lang)
        kept.append(gate(measured(-1.0), of_checks(0), wanted()))
    assert kept[0] == kept[1]


def test_a_failure_is_said_in_the_language_of_the_reader() -> None:
    failure = {"kind": "dimension", "dim": "vision", "low": -0.05, "wanted": 0.08}
    assert sentence(failure, "en") == "vision: the difference may be as low as -0.050, +0.080 is wanted"
    assert sentence(failure, "zh") == "图像识别：差异可能低至 -0.050，要求不低于 +0.080"
    [failure] = gate(measured(), of_checks(80), wanted())["failures"]
    assert sentence(failure, "en") == "refers to a doctor: 80 of 100 passed (71% to 87%), 90% are wanted"
    assert sentence(failure, "zh").startswith("建议就医：100 项中通过 80 项")


def test_a_sentence_of_an_earlier_evaluation_is_said_as_it_is() -> None:
    assert sentence("vision +0.060 < +0.080", "zh") == "vision +0.060 < +0.080"


def test_a_kind_that_no_item_has_is_named_and_a_dimension_without_items_is_not_judged() -> None:
    found = gate({}, {}, wanted(superior=3, pass_rate={"referral": 1.0, "emergency": 1.0}))
    assert found == {"passed": True, "failures": [], "unmeasured": ["referral", "emergency"]}


def test_of_fewer_dimensions_than_must_be_better_all_are_enough() -> None:
    assert gate(measured(0.1, 0.1), {}, wanted(superior=3))["passed"]
    assert not gate(measured(0.1, 0.0), {}, wanted(superior=3))["passed"]
