"""The manifest's figures: round bins that hold every record."""

from __future__ import annotations

from itertools import pairwise

import pytest

from medtune.data.manifest import BINS, bin_edges


@pytest.mark.parametrize("longest", [1, 11, 12, 499, 500, 512, 2047, 2048, 100_000])
def test_bins_have_a_round_width_and_hold_the_longest_record(longest: int) -> None:
    edges = bin_edges(longest)
    widths = {high - low for low, high in pairwise(edges)}
    assert len(widths) == 1 and str(widths.pop()).rstrip("0") in ("1", "2", "5")
    assert edges[0] == 0 and edges[-2] <= longest < edges[-1] and len(edges) - 1 <= BINS
