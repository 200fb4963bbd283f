"""The sheet a doctor opens in a spreadsheet: no cell of it is run, and what is filled in finds its answers again."""

from __future__ import annotations

import csv
import re
import unicodedata
from pathlib import Path

import pytest

from medtune.evaluation import review
from medtune.evaluation.items import Item
from medtune.evaluation.scoring import Judged, Scored
from medtune.records import Message

SIGNS = "=+-@＝＋－＠﹦﹢﹣﹫"
BEFORE = ("", " ", "\t", "\r", "\n", "\r\n", "  \t", "\u3000", "\xa0", "\u200b", "\ufeff", "\x00", "\x0b")
FORMULAS = [f"{before}{sign}cmd|' /C calc'!A0" for before in BEFORE for sign in SIGNS]
INSIDE = ["好;=1+1", "好;@SUM(1)", "好\t=1+1", "好\r=1+1", "好\n＝1+1", '好";=HYPERLINK("http://x")', "好； =1+1"]


def judged(text: str, number: int = 0) -> Judged:
    asked = (Message(role="user", content=text + "问"),)
    item = Item(f"{text}{number}", "test", "accuracy", asked, (Path(text),), "", (), "c")
    return Judged(item, *(Scored(text + end, (), "stop") for end in "甲乙"))


def cells(path: Path, delimiter: str = ",") -> list[str]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        return [cell for row in csv.reader(file, delimiter=delimiter) for cell in row]


def runs(cell: str) -> bool:
    """Whether a spreadsheet takes the cell for a formula."""
    visible = re.sub(r"^[\s\x00-\x1f\u200b-\u200f\u2060\ufeff]+", "", cell)
    return unicodedata.normalize("NFKC", visible[:1]) in tuple("=+-@") or cell[:1] in tuple("\t\r\n")


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_no_cell_is_a_formula(text: str, tmp_path: Path) -> None:
    assert review.write(tmp_path / "review.csv", [judged(text)], 0) == 1
    assert [cell for cell in cells(tmp_path / "review.csv") if runs(cell)] == []


@pytest.mark.parametrize("text", INSIDE, ids=ascii)
def test_no_part_of_a_cell_is_one_where_semicolons_or_tabs_separate(text: str, tmp_path: Path) -> None:
    review.write(tmp_path / "review.csv", [judged(text)], 0)
    raw = (tmp_path / "review.csv").read_text(encoding="utf-8-sig")
    parts = re.split(r"[,;\t\r\n]", raw.replace('"', ""))
    assert [part for part in parts if part.strip()[:1] in tuple("=@＝＠")] == []


def test_a_plain_answer_stays_as_it_is(tmp_path: Path) -> None:
    text = "血压 150/95；建议:\n- 复查\n- 少盐, a=b, x@y.cn"
    review.write(tmp_path / "review.csv", [judged(text)], 0)
    assert text + "甲" in cells(tmp_path / "review.csv")


def test_a_filled_sheet_finds_its_answers_whatever_the_spreadsheet_made_of_the_ids(tmp_path: Path) -> None:
    items = [judged("=1-2", number) for number in range(20)]
    sheet = tmp_path / "review.csv"
    review.write(sheet, items, 7)
    with open(sheet, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(re.fullmatch(r"k[0-9a-f]{12}", row["key"]) for row in rows)  # no spreadsheet's number
    for as_before in (False, True):
        with open(sheet, "w", encoding="utf-8-sig", newline="") as file:
            table = csv.DictWriter(file, review.COLUMNS)
            table.writeheader()
            for row in rows:
                key = row["key"].removeprefix("k" if as_before else "")  # a sheet of an earlier version
                table.writerow({**row, "id": "1. Feb", "better": "1", "key": key})
        assert {one.id for one in review.read(sheet, items, 7)} == {one.item.id for one in items}
