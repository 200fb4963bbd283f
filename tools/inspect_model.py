#!/usr/bin/env python3
"""model folder -> screen: say what LM Studio would make of it, and end with exit code 1 when it would not serve it.

reads   FOLDER: config, index, the headers of the weights, tokenizer, templates; any folder, whoever made it
writes  nothing
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

from pathlib import Path

from medtune import cli
from medtune.deployment.inspection import Inspection
from medtune.errors import UserError


def main(argv: list[str] | None = None) -> None:
    """Inspect one folder."""
    parser = cli.parser(__doc__, config=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="<publisher>/<model> as LM Studio would hold it")
    inspection = Inspection.of(parser.parse_args(argv).folder)
    print("\n".join(inspection.lines))
    if inspection.problems:
        raise UserError(inspection.verdict)
    print(inspection.verdict)


if __name__ == "__main__":
    cli.run(main)
