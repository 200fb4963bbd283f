"""Licenses: the one that binds most is that of the whole."""

from __future__ import annotations

from medtune.data.licenses import strictest


def test_the_strictest_license_wins_and_none_is_the_strictest() -> None:
    assert strictest(["MIT", "CC0-1.0"]) == "MIT"
    assert strictest(["Apache-2.0", "CC-BY-NC-4.0", "CC-BY-SA-4.0"]) == "CC-BY-NC-4.0"
    assert strictest(["CC-BY-NC-4.0", "house rules"]) == "house rules"
    assert strictest(["house rules", "unknown", "MIT"]) == "unknown"
