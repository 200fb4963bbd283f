"""One contender in a process of its own, so that start-up and memory are its own: `python -m medtune.bench.runner`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from medtune import files
from medtune.bench import contenders
from medtune.bench.job import Job
from medtune.bench.watch import Watch
from medtune.errors import UserError
from medtune.model import blas


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Run contender ``name`` on the job in ``folder`` and return what its watch wrote down."""
    result, log = folder / f"{name}.json", folder / f"{name}.log"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", __spec__.name, name, str(folder), str(result), repr(time.time())]
    with open(log, "w", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise UserError(f"{contenders.get(name).NAME}: exit code {code} ({' '.join(last)}); see {log}")
    return files.read_json(result)


def main(name: str, folder: str, result: str, started: str) -> None:
    """Load OpenBLAS before MLX, for whoever runs, and train."""
    watch = Watch(float(started))
    blas.load()
    contenders.get(name).run(Job.read(Path(folder)), watch)
    files.write_json(Path(result), watch.close())


if __name__ == "__main__":
    main(*sys.argv[1:])
