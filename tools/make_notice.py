#!/usr/bin/env python3
"""lock -> NOTICE: list the licence of every package that medtune is installed with, as the package itself states it.

reads   requirements.lock and the metadata of the installed packages
writes  the list at the end of NOTICE; of a package for another system the line stays as it is
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

import re
from importlib import metadata
from pathlib import Path

from medtune import cli, files

ROOT = Path(__file__).resolve().parents[1]
NOTICE, LOCK = ROOT / "NOTICE", ROOT / "requirements.lock"
HEAD = "Packages of requirements.lock and their licences, as they state them (made by `make notice`):"
UNKNOWN = "see the package"
LONGEST = 60  # characters; what is longer is the text of a licence, not its name


def main(argv: list[str] | None = None) -> None:
    """Write the list anew."""
    cli.parser(__doc__, config=False).parse_args(argv)
    own, _, known = files.read_text(NOTICE).partition(HEAD)
    rows = listed(files.read_text(LOCK), dict(re.findall(r"^ +(\S+ \S+): (.+)$", known, re.MULTILINE)))
    files.write_text(NOTICE, "\n".join([own.rstrip(), "", HEAD, "", *rows, ""]))


def listed(lock: str, known: dict[str, str]) -> list[str]:
    """A line for each package of a lock; ``known`` has what is known of those that are not installed here."""
    pins = [f"{name} {version}" for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)]
    return [f"    {pin}: {licence(pin.split()[0]) or known.get(pin, UNKNOWN)}" for pin in pins]


def licence(name: str) -> str:
    """What an installed package states: its SPDX expression, its classifiers, or its own words where they are short."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    classifiers = [line.split(" :: ") for line in about.get_all("Classifier", [])]
    classified = ", ".join(words[-1] for words in classifiers if words[0] == "License")
    words = (about.get_all("License") or [""])[0].strip()
    own = words if "\n" not in words and len(words) <= LONGEST else ""
    return (about.get_all("License-Expression") or [classified or own or UNKNOWN])[0]


if __name__ == "__main__":
    cli.run(main)
