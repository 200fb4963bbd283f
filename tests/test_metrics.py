"""metrics.jsonl: whatever stands in the file, what counts is decided in one pass and each line is read once."""

from __future__ import annotations

import io
import json
import random
import time
from pathlib import Path

import pytest
from rich.console import Console

from medtune.metrics import BEGINNINGS, ENDINGS, History, Metric, Reader, counting
from medtune.monitor import web
from medtune.monitor.screen import Screen, summary
from medtune.monitor.status import status_of
from tests import fakerun

LINES, VALIDATIONS = 100_000, 1_000
SECONDS = 3.0  # of a processor, for the page of so long a run


def rule_by_rule(metrics: list[Metric]) -> list[Metric]:
    """What counts, as the rules read: at each beginning and each validation the lines before are gone through again."""
    kept: list[Metric] = []
    for metric in metrics:
        name = metric.get("name")
        if name in BEGINNINGS:
            kept = [old for old in kept if 0 < metric["step"] >= old["step"] and old.get("name") not in ENDINGS]
        if metric["kind"] == "valid":
            kept = [old for old in kept if (old["kind"], old["step"]) != ("valid", metric["step"])]
        kept.append(metric)
    return kept


def anything(rng: random.Random) -> Metric:
    kind = rng.choice(["train", "train", "valid", "checkpoint", "event"])
    name = {"name": rng.choice([*BEGINNINGS, *ENDINGS, "warning"])} if kind == "event" else {}
    return {"kind": kind, "step": rng.randint(0, 12), "time": rng.random(), "loss": rng.random(), **name}


@pytest.mark.parametrize("seed", range(50))
def test_one_pass_from_the_end_keeps_what_the_rules_keep(seed: int) -> None:
    rng = random.Random(seed)
    metrics = [anything(rng) for _ in range(rng.randint(0, 60))]
    assert counting(metrics) == rule_by_rule(metrics)


@pytest.mark.parametrize("seed", range(10))
def test_a_file_read_as_it_grows_is_the_file_read_at_once(seed: int, tmp_path: Path) -> None:
    rng, path = random.Random(seed), tmp_path / "metrics.jsonl"
    reader = Reader(path)
    assert reader.read() == History()
    text = "".join(json.dumps(anything(rng)) + "\n" for _ in range(40)).encode()
    for end in sorted(rng.sample(range(len(text)), 8)):  # cut anywhere, also within a line
        path.write_bytes(text[:end])
        assert reader.read() == History.read(path)
        assert reader.read() is reader.read()
    path.write_text("".join(json.dumps(anything(rng)) + "\n" for _ in range(60)))  # another run, a longer file
    assert reader.read() == History.read(path) and len(reader.read().metrics) > 0
    path.unlink()
    assert reader.read() == History()


HOSTILE = [
    "[" * 100_000,
    '{"kind": "train", "step": ' + "9" * 5000 + "}",
    *[
        "",
        "null",
        "[]",
        "7",
        "{",
        '{"kind": "train"}',
        '{"step": 1}',
        '{"kind": 1, "step": 1}',
        '{"kind": "train", "step": "1"}',
        '{"kind": "train", "step": null}',
        '{"kind": "train", "step": true}',
        '{"kind": "train", "step": -1}',
        '{"kind": "train", "step": 1.5}',
        '{"kind": "valid", "step": 1}',
        '{"kind": "valid", "step": 1, "loss": NaN}',
        '{"kind": "valid", "step": 1, "loss": 1e999}',
        '{"kind": "train", "step": 2}',
        '{"kind": "train", "step": 3, "loss": NaN, "lr": Infinity}',
        '{"kind": "train", "step": 4, "loss": "x"}',
        '{"kind": "train", "step": 4, "loss": {}}',
        '{"kind": "train", "step": 4, "loss": []}',
        '{"kind": "train", "step": 5, "loss": 1, "loss_by_dim": 3}',
        '{"kind": "train", "step": 5, "loss": 1, "loss_by_dim": {"vision": "x"}}',
        '{"kind": "train", "step": 5, "loss": 1, "loss_by_dim": true}',
        '{"kind": "train", "step": 6, "it_per_sec": -1, "time": 1e300}',
        '{"kind": "train", "step": 6, "it_per_sec": 0, "time": []}',
        '{"kind": "train", "step": 6, "it_per_sec": 1, "time": "noon"}',
        '{"kind": "event", "step": 0, "name": 3}',
        '{"kind": "event", "step": 0, "name": [], "text": 4}',
        '{"kind": "event", "step": 7, "text": "x"}',
        '{"kind": "event", "step": 0, "name": "start", "total_steps": "many"}',
        '{"kind": "event", "step": 7, "total_steps": -5}',
        '{"kind": "event", "step": 7, "name": "warning", "total_steps": 1e300}',
        '{"kind": "checkpoint", "step": 7, "file": 3}',
        '{"kind": "checkpoint", "step": 7}',
        '{"kind": "valid", "step": 9, "loss": 1, "seconds": null}',
        '{"kind": "valid", "step": 0, "loss": 1}',
        '{"kind": "new", "step": 7, "time": 1}',
        '{"kind": "train", "step": 8},{"kind": "train", "step": 9}',
    ],
]


@pytest.mark.parametrize("line", [*HOSTILE, "\n".join(HOSTILE)], ids=range(len(HOSTILE) + 1))
def test_no_line_breaks_screen_lines_or_page(line: str, tmp_path: Path) -> None:
    path = fakerun.write_metrics(tmp_path, fakerun.metrics(until=50))
    with open(path, "ab") as file:
        file.write(line.encode() + b"\n\xff\xfe\n")
    history = History.read(path)
    assert len(history.of("train")) >= 5
    now = status_of("run", history, time.time())
    Console(file=io.StringIO(), width=90).print(Screen(now))
    assert summary(now) and json.dumps(web.snapshot(now), allow_nan=False)


def test_the_page_of_a_hundred_thousand_lines_takes_seconds_and_the_next_one_none(tmp_path: Path) -> None:
    every = LINES // VALIDATIONS
    moments = [(step, fakerun.BEGIN + step) for step in range(1, LINES + 1)]
    rows = [fakerun.valid(*at) if at[0] % every == 0 else fakerun.train(*at, LINES) for at in moments]
    fakerun.write_metrics(tmp_path, rows)
    begun = time.process_time()
    progress = web.LiveRun(tmp_path)
    first = json.loads(progress.json())
    assert time.process_time() - begun < SECONDS
    assert first["step"] == LINES and len(first["curves"]["train"]) == web.MAX_POINTS
    begun = time.process_time()
    progress.json()
    assert time.process_time() - begun < SECONDS / 6
