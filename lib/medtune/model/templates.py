"""A chat template is a program that anybody wrote: before it is run here it is tried in a process that is limited."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medtune import files
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import template_trial

TRIED = "MEDTUNE_TEMPLATE"  # hash of the template that passed, for this process and those it starts
PATIENCE = 15  # seconds: of a busy machine, since the trial bounds its own


@contextmanager
def tried(template: str, folder: Path) -> Iterator[None]:
    """Try ``template`` of ``folder`` while the block runs; a UserError at its end where it takes too much."""
    key = files.hash_of(template)
    if os.environ.get(TRIED) == key:
        yield
        return
    command = [sys.executable, "-I", str(Path(template_trial.__file__))]
    child = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONUTF8": "1"},
        start_new_session=True,  # Ctrl-C is for us to say
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with child:
        try:
            assert child.stdin is not None
            child.stdin.write(template.encode("utf-8", "surrogatepass"))
            child.stdin.close()
            yield
            passed = child.wait(PATIENCE) == 0
        except (subprocess.TimeoutExpired, BrokenPipeError):
            passed = False
        finally:
            child.kill()
    if not passed:
        raise UserError(
            tr(
                "{folder}: its chat template takes more time or memory than a template may; bring it back or download "
                "the model again",
                folder=folder,
            )
        )
    os.environ[TRIED] = key
