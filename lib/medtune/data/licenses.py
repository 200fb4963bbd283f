"""Licenses of data, from the freest to the strictest: the strictest of its sources binds a whole data set."""

from __future__ import annotations

from collections.abc import Iterable

# From the freest to the strictest; what is not listed counts as stricter than all of them.
LICENSES = (
    "cc0-1.0",
    "public domain",
    "no known copyright restrictions",
    "unlicense",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "apache-2.0",
    "odc-by",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "gpl-3.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0",
)


def strictest(licenses: Iterable[str]) -> str:
    """The license that binds most: NC beats SA, a license we cannot place beats all known, none at all beats it."""

    def strictness(name: str) -> tuple[int, str]:
        known = {license: rank for rank, license in enumerate(LICENSES)}
        return (len(LICENSES) + 1 if name == "unknown" else known.get(name.lower(), len(LICENSES)), name)

    return max(licenses, key=strictness, default="unknown")
