"""The edge of every tool: arguments they share, errors as one line, Ctrl-C without a traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from medtune.errors import UserError
from medtune.i18n import tr
from medtune.receipt import AlreadyDone


def parser(doc: str | None, *, config: bool = True, required: bool = True) -> argparse.ArgumentParser:
    """An argument parser whose help is the tool's docstring, with ``--config`` and ``--set`` where it has a config."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if config:
        parser.add_argument(
            "--config", type=Path, required=required, metavar="FILE", help="YAML settings of this stage"
        )
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override one setting, e.g. lora.rank=64; may be given many times",
        )
    return parser


def call(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> int:
    """Run a tool's main and return its exit code: 0, 1 for a UserError (one line), 130 for Ctrl-C."""
    try:
        main(argv)
    except AlreadyDone as done:
        print(done)
    except UserError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        sys.stdout.flush()
        print(tr("stopped"), file=sys.stderr)
        return 130
    return 0


def run(main: Callable[[list[str] | None], None]) -> None:
    """``call`` as a program: for the last line of a tool."""
    try:
        sys.exit(call(main))
    except BrokenPipeError:  # `make report | head`
        sys.stderr.close()
