"""Follow a run until it finishes: redraw a terminal, or print each new row where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live

from medtune.monitor.screen import Screen, line, summary
from medtune.monitor.status import Observer, Status, observe, time_of

INTERVAL = 1.0  # seconds between two looks at the file

Sleep = Callable[[float], None]


def once(run: Path, console: Console) -> None:
    """Print where the run stands now: the screen on a terminal, dense lines elsewhere."""
    now = observe(run, time.time())
    if console.is_terminal:
        console.print(_fitted(now, console))
    else:
        print("\n".join(summary(now)))


def watch(run: Path, console: Console, sleep: Sleep = time.sleep) -> None:
    """Follow the run until it says it finished; Ctrl-C ends it earlier, without harm to the run."""
    try:
        (_redraw if console.is_terminal else _print)(run, console, sleep)
    except KeyboardInterrupt:
        return


def _redraw(run: Path, console: Console, sleep: Sleep) -> None:
    observer = Observer(run)
    now = observer.look()
    with Live(_fitted(now, console), console=console, auto_refresh=False) as live:
        while now.state != "finished":
            sleep(INTERVAL)
            now = observer.look()
            live.update(_fitted(now, console), refresh=True)


def _fitted(now: Status, console: Console) -> Screen:
    """The screen as high as the terminal, less the line of the cursor."""
    return Screen(now, console.height - 1)


def _print(run: Path, console: Console, sleep: Sleep) -> None:
    """Print each row once, and each change of state that no row tells of (waiting, stalled)."""
    printed: set[tuple[object, ...]] = set()
    said, observer = "", Observer(run)
    while True:
        now = observer.look()
        for row in now.history.metrics:
            key = (row["kind"], row["step"], time_of(row))
            if key not in printed:
                printed.add(key)
                print(line(row), flush=True)
        if now.state != said:
            said = now.state
            print(f"{now.run}: {now.note}", flush=True)
        if now.state == "finished":
            return
        sleep(INTERVAL)
