"""Preparation: rows of sources become records of a data set, a chunk at a time.

Only an entry of some hundred bytes per record stays in memory; the records wait in a spool file until every group of
them is known, and with it the split they belong to.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from medtune import files
from medtune.data import assembly, encodings, sources, splits
from medtune.data.assembly import Pending
from medtune.data.dedup import Repeats
from medtune.data.imagestore import ImageStore
from medtune.data.rejections import Rejected, Rejections, sentence
from medtune.data.sources import SourceFile
from medtune.errors import raise_all
from medtune.i18n import tr
from medtune.progress import Progress
from medtune.records import SPLITS, Dimension, Record
from medtune.schemas import DataConfig

CHUNK = 1024  # rows taken through all steps together: enough for threads and processes to share


@dataclass(frozen=True, slots=True)
class Entry:
    """What is remembered of an accepted record; its line in the spool has the same position."""

    source: Path
    dim: Dimension
    label: int
    marked: bool
    license: str
    link: str  # one of the links that lead to its group
    count: encodings.TokenCount
    packed_bytes: int  # of its encoding


@dataclass
class Preparation:
    """Takes rows through every check; accepted records go to the spool, the others to the rejections."""

    config: DataConfig
    images: ImageStore
    encode: encodings.Encoder
    rejections: Rejections
    spool: TextIO
    packed: BinaryIO  # the encodings of the records in the spool
    entries: list[Entry] = field(default_factory=list)
    groups: splits.Groups = field(default_factory=splits.Groups)

    def __post_init__(self) -> None:
        self._repeats = Repeats(self.config.dedup)
        self._ids: dict[str, bool] = {}  # whether the row named itself so

    def read(self, found: Sequence[SourceFile], progress: Progress) -> None:
        """Take all rows of all files through the checks; a chunk is encoded while the next one is checked."""
        before = 0
        waiting: tuple[list[tuple[Pending, Record]], Iterable[encodings.Encoded]] = ([], [])
        for source in found:
            rows = sources.rows(source.path)
            while chunk := list(itertools.islice(rows, CHUNK)):
                checked = self._checked(source, chunk)
                encoded = self.encode([record for _, record in checked])
                self._accept(*waiting)
                waiting = checked, encoded
                progress.update(before + chunk[-1].position, self._note())
            before += source.path.stat().st_size
        self._accept(*waiting)
        progress.update(before, self._note())

    def _note(self) -> str:
        rejected = self.rejections.reasons.total()
        return tr("{accepted} records, {rejected} rejected", accepted=len(self.entries), rejected=rejected)

    def _checked(self, source: SourceFile, rows: Iterable[sources.Row]) -> list[tuple[Pending, Record]]:
        """The records of rows that pass every check but that of their length."""
        pending: list[Pending] = []
        for row in rows:
            try:
                pending += assembly.drafts(source, row)
            except Rejected as fault:
                self.rejections.add(source.path, row.line, fault, row.value)
        self.images.add(picture for one in pending for picture in one.pictures)
        checked = []
        for one in pending:
            try:
                checked.append((one, self._record(one)))
            except Rejected as fault:
                self.rejections.add(source.path, one.row.line, fault, one.row.value)
        return checked

    def _record(self, pending: Pending) -> Record:
        stored = [self.images.get(picture) for picture in pending.pictures]
        record = assembly.record(pending, stored, self.config)
        if pending.named and self._ids.get(record.id):
            raise Rejected("duplicate_id", record.id)
        self._repeats.check(record)
        return record.model_copy(update={"id": self._own_id(record.id, pending.named)})

    def _own_id(self, wanted: str, named: bool) -> str:
        """The id itself, or one like it where an id that a row gave itself and one that we made are the same."""
        own = wanted
        if wanted in self._ids:
            self._ids[wanted] |= named
            own = next(name for n in itertools.count(2) if (name := f"{wanted}~{n}") not in self._ids)
        self._ids[own] = named
        return own

    def _accept(self, checked: Iterable[tuple[Pending, Record]], encoded: Iterable[encodings.Encoded]) -> None:
        """Spool the records that are short enough."""
        for (pending, record), (count, packed) in zip(checked, encoded, strict=True):
            path = pending.source.path
            if count.tokens > self.config.max_seq_length:
                fault = Rejected("too_long", f"{count.tokens} tokens")
                self.rejections.add(path, pending.row.line, fault, pending.row.value)
                continue
            links = assembly.links(record)
            self.groups.join(links)
            marked = any(span.weight < 0 for span in record.spans)
            entry = Entry(path, record.dim, record.label, marked, record.license, links[0], count, len(packed))
            self.entries.append(entry)
            self.spool.write(record.to_json() + "\n")
            self.packed.write(packed)

    def assigned(self) -> list[str]:
        """The split of each entry; raises a UserError when there is none, or none to train on."""
        sizes: dict[str, Counter[str]] = {}
        for entry in self.entries:
            sizes.setdefault(self.groups.of(entry.link), Counter())[entry.dim] += 1
        fractions = {"test": self.config.test_fraction, "valid": self.config.valid_fraction}
        split = splits.assign(sizes, fractions, self.config.seed)
        assigned = [split[self.groups.of(entry.link)] for entry in self.entries]
        if "train" not in assigned:
            raise_all(self._what_happened(), tr("no data set ({count} records)", count=len(assigned)))
        return assigned

    def _what_happened(self) -> list[str]:
        lost = [
            f"{count} x {sentence(reason)}, {self.rejections.first[reason]}"
            for reason, count in self.rejections.reasons.most_common()
        ]
        if self.entries:
            lost.append(tr("no record is left for train: lower valid_fraction and test_fraction or add data"))
        return lost or [tr("the sources hold no row")]

    def write(self, root: Path, assigned: Sequence[str]) -> set[str]:
        """Write the three splits, each record with its group as cluster; returns the names of all images."""
        self.spool.seek(0)
        images: set[str] = set()
        with files.writing({name: root / f"{name}.jsonl" for name in SPLITS}) as opened:
            for line, entry, split in zip(self.spool, self.entries, assigned, strict=True):
                row = json.loads(line)
                row["cluster"] = self.groups.of(entry.link).removeprefix(assembly.GIVEN)
                images.update(row.get("images", []))
                opened[split].write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
        return images
