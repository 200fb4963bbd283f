"""Progress of a long stage: a bar on a terminal, a dense line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

LOG_SECONDS = 15.0


class Progress:
    """Counts up to ``total``; ``note`` is shown beside it."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._bar = tqdm(total=total, desc=label, unit=unit, unit_scale=True, disable=not sys.stdout.isatty())
        self._label, self._total, self._done = label, max(total, 1), 0
        self._logged = time.monotonic()

    def update(self, done: int, note: str) -> None:
        """Say that ``done`` of the total are done."""
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._done)
        self._done = done
        if self._bar.disable and time.monotonic() - self._logged >= LOG_SECONDS:
            self._logged = time.monotonic()
            print(f"{self._label} {done / self._total:4.0%}  {note}", flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


@contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Progress]:
    """A ``Progress`` that is closed at the end."""
    bar = Progress(label, total, unit)
    try:
        yield bar
    finally:
        bar.close()


def duration(seconds: float) -> str:
    """``8:07``, ``2:15:09``: minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
