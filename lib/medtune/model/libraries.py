"""The edge of the libraries: what they raise while they read a model folder is one line that names the folder.

They read what anybody wrote, and fail with whatever comes first: KeyError, TypeError, an Exception of Rust's.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medtune.errors import UserError, is_out_of_memory
from medtune.i18n import tr

OURS = str(Path(__file__).parents[1])
LONGEST = 300  # characters of what a library said


@contextmanager
def reading(folder: Path, culprit: Callable[[], str] = str, said: Callable[[str], str] | None = None) -> Iterator[None]:
    """Turn what a library raises in this block into a UserError about ``folder``.

    ``culprit`` is asked for the file that is to blame, "" where it cannot be told; ``said`` makes another sentence of
    what the library said. What was raised by code of ours is
    a bug and stays one, as do a lack of memory and what the system says of a file, which the edge of the tools says.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        system = isinstance(error, OSError) and error.errno is not None
        theirs = type(error) is Exception  # what tokenizers raises, from no frame of its own
        if system or is_out_of_memory(error) or (_is_ours(error) and not theirs):
            raise
        if said is not None:
            raise UserError(said(shown(error))) from None
        path = folder / culprit()
        raise UserError(
            tr("{path}: cannot be read ({error}); download the model again", path=path, error=shown(error))
        ) from None


def shown(error: BaseException) -> str:
    """What an exception says, on one line."""
    text = f"no {error}" if isinstance(error, KeyError) else str(error)
    line = " ".join(text.split()) or type(error).__name__
    return line if len(line) <= LONGEST else line[:LONGEST] + " ..."


def damaged_tokenizer(folder: Path) -> str:
    """The file of the tokenizer that cannot be read, "" where all of them can."""
    from tokenizers import Tokenizer

    for name in ("tokenizer.json", "vocab.json"):
        path = folder / name
        try:
            if path.exists() and not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
                return name
            if name == "tokenizer.json" and path.exists():
                Tokenizer.from_file(str(path))
        except Exception:  # tokenizers raises a plain Exception for what it cannot read
            return name
    return ""


def _is_ours(error: Exception) -> bool:
    """Whether it was raised by a line of ours, not below a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(OURS)
