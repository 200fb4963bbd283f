#!/usr/bin/env python3
"""receipts -> report: say what a run is, how it was made and what was measured; nothing is trained or computed anew.

reads   RUN/training.json, metrics.jsonl, evaluation.json, predictions.jsonl, deployment.json, the data's manifest.json
writes  OUT/REPORT.md, OUT/REPORT.html, OUT/figures/*.png
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

import os
from datetime import datetime
from pathlib import Path

from medtune import cli
from medtune.errors import UserError
from medtune.i18n import Lang, tr
from medtune.run import Run

REPORTS = Path("docs/reports")


def main(argv: list[str] | None = None) -> None:
    """Write the report of RUN in the language of --lang, REPORT_LANG, or Chinese."""
    parser = cli.parser(__doc__ or "", config=False)
    cli.add_run(parser)
    parser.add_argument(
        "--baseline", type=Path, metavar="RUN", help="another run whose settings and curve stand beside"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes (default: docs/reports/RUN)")
    parser.add_argument("--lang", default=os.environ.get("REPORT_LANG") or "zh", metavar="zh|en")
    args = parser.parse_args(argv)
    if args.lang not in ("zh", "en"):
        raise UserError(tr("{found}: no such language of the report: zh or en", found=args.lang))

    from medtune.report import facts, write

    lang: Lang = args.lang
    run = Run.chosen(args.run).path
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    path = write.write(facts.gather(run, args.baseline), args.out or REPORTS / run.name, lang, now)
    print(tr("report: {path} and REPORT.html beside it", path=path))


if __name__ == "__main__":
    cli.run(main)
