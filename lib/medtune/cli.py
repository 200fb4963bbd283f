"""The edge of every tool: arguments they share, errors as one line, Ctrl-C without a traceback."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.receipt import AlreadyDone

CACHE = Path("data/cache/trunk")


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


def add_run(parser: argparse.ArgumentParser) -> None:
    """The argument of the tools that read a run; see ``Run.chosen`` for what is taken without it."""
    parser.add_argument(
        "run", type=Path, nargs="?", metavar="RUN", help="folder of a training (default: adapters_v2, else the newest)"
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    """The option of the tools that train: where the trunk's activations are kept, for every run of this checkout."""
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help="trunk cache (default: %(default)s)")


def call(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> int:
    """Run a tool's main and return its exit code: 0, 130 for Ctrl-C, 1 with one line for what the person can fix.

    That is a UserError, and what the system says of a file: no permission, no folder, a full disk.
    """
    try:
        main(argv)
    except AlreadyDone as done:
        print(done)
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        if said := _of_file(error):
            return _fail(said)
        raise
    except KeyboardInterrupt:
        sys.stdout.flush()
        print(tr("stopped"), file=sys.stderr)
        return 130
    return 0


def _fail(said: str) -> int:
    sys.stdout.flush()
    print(f"error: {said}", file=sys.stderr)
    return 1


def _of_file(error: OSError) -> str:
    """``PATH: reason``, of two files the target; "" where it is about no file: a bug, or a pipe that was closed."""
    name = error.filename if error.filename2 is None else error.filename2
    if isinstance(name, (str, bytes, os.PathLike)):
        return f"{os.fsdecode(name)}: {error.strerror or error}"
    return os.strerror(error.errno) if error.errno in files.FULL else ""


def run(main: Callable[[list[str] | None], None]) -> None:
    """``call`` as a program: for the last line of a tool."""
    try:
        sys.exit(call(main))
    except BrokenPipeError:  # `make report | head`
        sys.stderr.close()
