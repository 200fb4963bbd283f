#!/usr/bin/env python3
"""the chain on the demo, watched -> what left this machine: nothing.

reads   the demo's data, settings and model
writes  OUT: the chain's own files, and OUT/watched.jsonl, a line for each process and each address it spoke to

Every tool runs on a few steps, its children too, with connections to other machines refused and with a proxy set that
writes down what comes to it.
"""

from __future__ import annotations

import medtune.start  # noqa: F401 - first: from here on Ctrl-C is one line

import shutil
from pathlib import Path

from medtune import cli
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.outgoing.chain import Chain
from medtune.outgoing.watch import watching

DEMO = Chain(Path("configs/demo"), Path("data/demo/model"), Path("build/privacy"))


def main(argv: list[str] | None = None) -> None:
    """Run, and say what was seen; a UserError where anything would have left, or a tool did not do its work."""
    parser = cli.parser(__doc__, config=False)
    parser.add_argument("--out", type=Path, default=DEMO.out, metavar="OUT", help="default: %(default)s")
    args = parser.parse_args(argv)
    if (args.out / "watched.jsonl").exists():
        shutil.rmtree(args.out)  # of an earlier check
    chain = Chain(DEMO.configs, DEMO.base, args.out)
    with watching(args.out / "watched.jsonl") as watch:
        for name, command in chain.commands():
            done = watch.run(command)
            print(f"{name}: {len(watch.left)} + {len(watch.asked)}", flush=True)
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["?"])[-1]
                raise UserError(tr("{tool} did not do its work, so nothing is shown: {error}", tool=name, error=said))
        here = sum(row["event"] == "socket.connect" and row["here"] for row in watch.rows)
        print(
            tr(
                "{processes} processes: {here} connections inside this machine, {left} attempts to leave it, {asked} "
                "requests at the proxy",
                processes=watch.processes,
                here=here,
                left=len(watch.left),
                asked=len(watch.asked),
            )
        )
        if watch.left or watch.asked:
            where = watch.left[0] if watch.left else watch.asked[0]
            raise UserError(tr("something would have left this machine: {what}", what=where))


if __name__ == "__main__":
    cli.run(main)
