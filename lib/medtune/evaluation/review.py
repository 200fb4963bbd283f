"""A doctor's blind comparison: both answers in random order on a sheet, and the filled sheet read back."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from medtune import files
from medtune.errors import UserError, raise_all
from medtune.evaluation import statistics
from medtune.evaluation.scoring import Judged
from medtune.i18n import tr

COLUMNS = ("id", "dimension", "question", "images", "answer_1", "answer_2", "better", "note", "key")
KEY = "k"  # before the key: twelve digits would become a number, and 12e45678 one with many zeros
_BLANK = r"[\s\x00-\x1f\u200b-\u200f\u2060\ufeff]"
FORMULA = re.compile(rf"[\t\r\n]|{_BLANK}*[=+\-@＝＋－＠﹦﹢﹣﹫]")
FORMULA_INSIDE = re.compile(rf"([;；\t\r\n]{_BLANK}*)([=@＝＠﹦﹫])")
Winner = Literal["baseline", "tuned", "tie"]


@dataclass(frozen=True)
class Review:
    """What one reviewer said of one item."""

    id: str
    dim: str
    better: Winner
    note: str
    sheet: str


def write(path: Path, judged: Sequence[Judged], seed: int) -> int:
    """Write the sheet of items whose answers differ; returns how many. Excel reads it (UTF-8 with a mark)."""
    rows = [_row(one, seed) for one in judged if one.baseline.answer != one.tuned.answer]
    with files.atomic(path) as partial, open(partial, "w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows([row[name] for name in COLUMNS] for row in rows)
    return len(rows)


def answered(path: Path) -> bool:
    """Whether somebody has written into a sheet; one that cannot be read as it was written is somebody's too."""
    try:
        return any((row["better"] or "").strip() or (row["note"] or "").strip() for _, row in _rows(path))
    except UserError:
        return True


def read(path: Path, judged: Sequence[Judged], seed: int) -> list[Review]:
    """The filled rows of a sheet (``better``: 1, 2 or 0 for a tie; empty rows are left out)."""
    known = {_key(one, seed): one for one in judged}
    problems: list[str] = []
    found: list[Review] = []
    for number, row in _rows(path):
        better = (row["better"] or "").strip()
        one = known.get((row["key"] or "").removeprefix(KEY))
        if not better:
            continue
        if one is None:
            problems.append(tr("line {n}: the answers to {id} are no longer those of this run", n=number, id=row["id"]))
        elif better not in ("0", "1", "2"):
            problems.append(tr("line {n}: better is '{value}'; write 1, 2 or 0", n=number, value=better))
        else:
            order = _order(one, seed)
            winner: Winner = "tie" if better == "0" else order[int(better) - 1]
            found.append(Review(one.item.id, one.item.dim, winner, (row["note"] or "").strip(), path.name))
    raise_all(problems, str(path))
    return found


def save(path: Path, reviews: Iterable[Review]) -> None:
    """Keep the reviews beside the predictions they are about."""
    files.write_jsonl(path, [json.dumps(files.sealed(asdict(review)), ensure_ascii=False) for review in reviews])


def summary(reviews: Sequence[Review]) -> str:
    """How often the tuned model's answer was preferred, ties apart, with the Wilson interval and the sign test."""
    counts = Counter(review.better for review in reviews)
    won, lost = counts["tuned"], counts["baseline"]
    low, high = statistics.wilson(won, won + lost)
    return tr(
        "{n} reviewed: tuned preferred {won} times, baseline {lost} times, {ties} ties; "
        "tuned wins {low:.0%} to {high:.0%} of decided ones (95 %), p = {p:.3f}",
        n=len(reviews),
        won=won,
        lost=lost,
        ties=counts["tie"],
        low=low,
        high=high,
        p=statistics.mcnemar(won, lost),
    )


def _rows(path: Path) -> list[tuple[int, dict[str, str | None]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
            if missing:
                raise UserError(
                    tr("{path}: no column {names}; fill in the sheet as written", path=path, names=", ".join(missing))
                )
            return [(table.line_num, row) for row in table]
    except FileNotFoundError:
        raise UserError(tr("{path}: no such file; --review without a file writes the sheet", path=path)) from None
    except UnicodeDecodeError:
        raise UserError(tr("{path}: not UTF-8; save it as CSV UTF-8", path=path)) from None


def _row(one: Judged, seed: int) -> dict[str, str]:
    first, second = _order(one, seed)
    return {
        "id": _safe(one.item.id),
        "dimension": one.item.dim,
        "question": _safe(one.item.question),
        "images": _safe(" ".join(str(path) for path in one.item.images)),
        "answer_1": _safe(getattr(one, first).answer),
        "answer_2": _safe(getattr(one, second).answer),
        "better": "",
        "note": "",
        "key": KEY + _key(one, seed),
    }


def _safe(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula.

    It would take one that begins so, after blanks and in full width too, and where a semicolon or a tab separates the
    cells, as in much of Europe, a part of one.
    """
    inside = FORMULA_INSIDE.sub(r"\1'\2", text)
    return f"'{inside}" if FORMULA.match(text) else inside


def _key(one: Judged, seed: int) -> str:
    """Says which two answers were compared, and not which is whose."""
    both = sorted((one.baseline.answer, one.tuned.answer))
    return hashlib.sha256(json.dumps([seed, one.item.id, *both]).encode()).hexdigest()[:12]


def _order(one: Judged, seed: int) -> tuple[Winner, Winner]:
    coin = hashlib.sha256(f"{seed}:{one.item.id}:order".encode()).digest()[0] % 2
    return ("tuned", "baseline") if coin else ("baseline", "tuned")
