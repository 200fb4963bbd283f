"""The edge of every tool: arguments they share, errors as one line, Ctrl-C without a traceback."""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from medtune import files, start
from medtune.errors import UserError, is_out_of_memory
from medtune.i18n import say, tr
from medtune.receipt import AlreadyDone

CACHE = Path("data/cache/trunk")
PRIVATE = 0o077  # what the tools and their libraries write may hold a patient's words: for its owner alone
SCARCE = (*files.FULL, errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # where the system names no file


class _Parser(argparse.ArgumentParser):
    """One that says a wrong command line as everything else a person can fix: in one line, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(tr("{message}; {prog} --help shows the options", message=message, prog=self.prog))


def parser(doc: str | None, *, config: bool = True, required: bool = True) -> argparse.ArgumentParser:
    """An argument parser whose help is the tool's docstring, with ``--config`` and ``--set`` where it has a config."""
    parser = _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
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


def apart(parser: argparse.ArgumentParser, args: argparse.Namespace, option: str, *others: str) -> None:
    """A UserError where ``option`` was given together with some of the ``others``, of which it would take no notice."""
    found = [other for other in others if _given(parser, args, other)]
    if found and _given(parser, args, option):
        raise UserError(tr("{option} takes no {others}; leave one out", option=option, others=", ".join(found)))


def needs(parser: argparse.ArgumentParser, args: argparse.Namespace, option: str, *others: str) -> None:
    """A UserError where ``option`` was given without any of the ``others``, for which alone it is."""
    if _given(parser, args, option) and not any(_given(parser, args, other) for other in others):
        raise UserError(tr("{option} is for {others} only", option=option, others=", ".join(others)))


def _given(parser: argparse.ArgumentParser, args: argparse.Namespace, option: str) -> bool:
    """Whether an option (--NAME) or argument (NAME) says something else than where it is left out."""
    name = option.removeprefix("--").replace("-", "_").lower()
    return getattr(args, name) != parser.get_default(name)


def count(text: str) -> int:
    """The type of an option that counts: 1, 2, 3 ..."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(tr("{text}: not a whole number above 0", text=text))
    return int(text)


def above_zero(text: str) -> float:
    """The type of an option that multiplies."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(tr("{text}: not a number above 0", text=text))
    return found


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
    before = os.umask(PRIVATE)
    try:
        for word in sys.argv[1:] if argv is None else argv:
            files.check_name(word)
        main(argv)
    except AlreadyDone as done:
        print(done)
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        if said := _of_file(error):
            return _fail(said)
        raise
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            return _fail(tr("out of memory; close other programs or use a smaller model: `make plan` says what fits"))
        raise
    except KeyboardInterrupt:
        _flush()
        print(say(start.STOPPED), file=sys.stderr)
        return start.INTERRUPTED
    finally:
        os.umask(before)
    return 0


def _flush() -> None:
    with suppress(OSError):  # said, where it matters, by who wrote
        sys.stdout.flush()


def _fail(said: str) -> int:
    _flush()
    print(f"error: {said}", file=sys.stderr)
    return 1


def _of_file(error: OSError) -> str:
    """``PATH: reason``, of two files the target; "" where it is about no file: a bug, or a pipe that was closed."""
    name = error.filename if error.filename2 is None else error.filename2
    if isinstance(name, (str, bytes, os.PathLike)):
        return f"{os.fsdecode(name)}: {error.strerror or error}"
    return os.strerror(error.errno) if error.errno in SCARCE else ""


def run(main: Callable[[list[str] | None], None]) -> None:
    """``call`` as a program: for the last line of a tool."""
    start.open_streams()
    start.interruptible(True)
    code: str | int | None = 0
    try:
        try:
            code = call(main)
        except SystemExit as stopped:  # argparse: --help, or a fault it has said
            code = stopped.code
        start.interruptible(False)
        sys.stdout.flush()
    except BrokenPipeError:  # `make report | head`
        _forget_output()
    except OSError as error:
        if error.errno not in SCARCE:
            raise
        _forget_output()
        code = _fail(os.strerror(error.errno))
    except KeyboardInterrupt:  # again, while the first was being said
        code = start.INTERRUPTED
    sys.exit(code)


def _forget_output() -> None:
    """Let what cannot be printed go nowhere: Python would complain of it once more at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
