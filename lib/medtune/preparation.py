"""Preparation: rows of sources become records of a data set, a chunk at a time.

Only an entry of some hundred bytes per record stays in memory; the records wait in a spool file until every group of
them is known, and with it the split they belong to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from medtune import counting, files, layouts, privacy, soundness, sources, splits
from medtune.dedup import Repeats, plain
from medtune.drafts import Draft, Rejected
from medtune.errors import UserError, raise_all
from medtune.i18n import tr
from medtune.images import ImageStore, Picture, locate
from medtune.layouts import Layout
from medtune.progress import Progress
from medtune.records import SPLITS, Dimension, Message, Record
from medtune.rejections import Rejections, sentence
from medtune.schemas import DataConfig, Source

CHUNK = 1024  # rows taken through all steps together: enough for threads and processes to share
HAN = re.compile(r"[㐀-鿿]")
# Links that hold records together in one split; the first of them in this order names the group.
GIVEN, IMAGE, PAIR, PROMPT = "cluster ", "image ", "pair ", "prompt "


@dataclass(frozen=True)
class SourceFile:
    """One file of a source and how it is read."""

    path: Path
    name: str  # in ids and receipts: the source's name and the file's place in it
    folder: Path  # of the source; images are also looked for from here
    settings: Source
    layout: Layout


@dataclass(frozen=True, slots=True)
class Entry:
    """What is remembered of an accepted record; its line in the spool has the same position."""

    source: Path
    dim: Dimension
    label: int
    marked: bool
    license: str
    link: str  # one of the links that lead to its group
    count: counting.Count


@dataclass(frozen=True)
class _Pending:
    """A draft on its way to becoming a record."""

    source: SourceFile
    row: sources.Row
    draft: Draft
    pictures: tuple[Picture, ...]
    number: int  # among the drafts of its row, from 1; 0 where it is the only one


def open_sources(wanted: Iterable[Source]) -> list[SourceFile]:
    """The files of all sources in order, each once, with their layouts; raises one UserError for all that is wrong."""
    found: dict[Path, SourceFile] = {}
    problems: list[str] = []
    for source in wanted:
        path = Path(source.path).expanduser()
        try:
            for file in sources.files_of(path):
                if file.resolve() not in found:
                    found[file.resolve()] = _open(file, path, source)
        except UserError as error:
            problems.append(str(error))
    if not found and not problems:
        problems.append(tr("there is no source; name one on the command line or in `sources`"))
    raise_all(problems, tr("sources"))
    return list(found.values())


def _open(file: Path, path: Path, source: Source) -> SourceFile:
    folder = path if path.is_dir() else path.parent
    name = file.relative_to(folder).with_suffix("").as_posix()
    name = f"{path.resolve().name}/{name}" if path.is_dir() else name
    if source.layout != "auto":
        return SourceFile(file, name, folder, source, layouts.named(source.layout))
    sample = [row.value for row in islice(sources.rows(file), layouts.SAMPLE)]
    try:
        return SourceFile(file, name, folder, source, layouts.detect(sample))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


@dataclass
class Preparation:
    """Takes rows through every check; accepted records go to the spool, the others to the rejections."""

    config: DataConfig
    images: ImageStore
    count: counting.Counter
    rejections: Rejections
    spool: TextIO
    entries: list[Entry] = field(default_factory=list)
    groups: splits.Groups = field(default_factory=splits.Groups)

    def __post_init__(self) -> None:
        self._repeats = Repeats(self.config.dedup)
        self._ids: set[str] = set()

    def read(self, found: Sequence[SourceFile], progress: Progress) -> None:
        """Take all rows of all files through the checks."""
        before = 0
        for source in found:
            rows = sources.rows(source.path)
            while chunk := list(islice(rows, CHUNK)):
                self._take(source, chunk)
                note = tr(
                    "{accepted} records, {rejected} rejected",
                    accepted=len(self.entries),
                    rejected=self.rejections.reasons.total(),
                )
                progress.update(before + chunk[-1].position, note)
            before += source.path.stat().st_size

    def _take(self, source: SourceFile, rows: Sequence[sources.Row]) -> None:
        pending = [draft for row in rows for draft in self._drafts(source, row)]
        self.images.add(picture for draft in pending for picture in draft.pictures)
        records = [(draft, record) for draft in pending if (record := self._record(draft))]
        counts = self.count([record for _, record in records])
        for (draft, record), count in zip(records, counts, strict=True):
            if count.tokens > self.config.max_seq_length:
                fault = Rejected("too_long", f"{count.tokens} tokens")
                self.rejections.add(source.path, draft.row.line, fault, draft.row.value)
            else:
                self._accept(source, record, count)

    def _drafts(self, source: SourceFile, row: sources.Row) -> list[_Pending]:
        """The drafts of a row with their pictures located; none when the row is rejected."""
        try:
            if row.fault:
                raise Rejected("json", row.fault)
            if not source.layout.matches(row.value):
                raise Rejected("layout", f"{source.layout.NAME}: {' + '.join(source.layout.KEYS)}")
            drafts = list(source.layout.convert(row.value))
            numbers = range(1, len(drafts) + 1) if len(drafts) > 1 else [0]
            return [
                _Pending(source, row, draft, _pictures(draft, source), number)
                for number, draft in zip(numbers, drafts, strict=True)
            ]
        except Rejected as fault:
            self.rejections.add(source.path, row.line, fault, row.value)
            return []

    def _record(self, pending: _Pending) -> Record | None:
        """The record of a draft, checked; None when it is rejected."""
        try:
            stored = [self.images.get(picture) for picture in pending.pictures]
            record = _built(pending, [image.name for image in stored])
            soundness.check(record)
            if self.config.privacy == "reject":
                _check_privacy(record)
            hashes = [image.sha256 for image in stored]
            record = _finished(record, hashes, self.config.system_prompt)
            if record.id in self._ids:
                raise Rejected("duplicate_id", record.id)
            self._repeats.check(record)
            self._ids.add(record.id)
            return record
        except Rejected as fault:
            self.rejections.add(pending.source.path, pending.row.line, fault, pending.row.value)
            return None

    def _accept(self, source: SourceFile, record: Record, count: counting.Count) -> None:
        links = _links(record)
        self.groups.join(links)
        marked = any(span.weight < 0 for span in record.spans)
        self.entries.append(Entry(source.path, record.dim, record.label, marked, record.license, links[0], count))
        self.spool.write(record.to_json() + "\n")

    def assigned(self) -> list[str]:
        """The split of each entry."""
        sizes: dict[str, Counter[str]] = {}
        for entry in self.entries:
            sizes.setdefault(self.groups.of(entry.link), Counter())[entry.dim] += 1
        fractions = {"test": self.config.test_fraction, "valid": self.config.valid_fraction}
        split = splits.assign(sizes, fractions, self.config.seed)
        return [split[self.groups.of(entry.link)] for entry in self.entries]

    def refuse_empty(self, assigned: Sequence[str]) -> None:
        """Raise a UserError when there is no record, or none to train on, with what happened to the rows."""
        if "train" in assigned:
            return
        lost = [
            f"{count} x {sentence(reason)}, {self.rejections.first[reason]}"
            for reason, count in self.rejections.reasons.most_common()
        ]
        if assigned:
            lost.append(tr("no record is left for train: lower valid_fraction and test_fraction or add data"))
        raise_all(lost or [tr("the sources hold no row")], tr("no data set ({count} records)", count=len(assigned)))

    def write(self, root: Path, assigned: Sequence[str]) -> set[str]:
        """Write the three splits, each record with its group as cluster; returns the names of all images."""
        self.spool.seek(0)
        images: set[str] = set()
        with ExitStack() as stack:
            opened = {}
            for name in SPLITS:
                partial = stack.enter_context(files.atomic(root / f"{name}.jsonl"))
                opened[name] = stack.enter_context(open(partial, "w", encoding="utf-8"))
            for line, entry, split in zip(self.spool, self.entries, assigned, strict=True):
                record = Record.model_validate_json(line)
                images.update(record.images)
                group = self.groups.of(entry.link).removeprefix(GIVEN)
                opened[split].write(record.model_copy(update={"cluster": group}).to_json() + "\n")
        return images


def _pictures(draft: Draft, source: SourceFile) -> tuple[Picture, ...]:
    """Pictures of a draft, looked for from the file's folder and the source's."""
    folders = list(dict.fromkeys([source.path.parent, source.folder]))
    references = draft.get("images") or []
    if not isinstance(references, (list, tuple)) or not all(isinstance(one, str) for one in references):
        raise Rejected("fields", "images is a list of paths")
    return tuple(locate(reference, folders) for reference in references)


def _built(pending: _Pending, images: list[str]) -> Record:
    """The record of a draft: what the draft leaves open comes from the source's settings."""
    draft, settings = pending.draft, pending.source.settings
    defaults = {
        "source": pending.source.name,
        "license": settings.license or "unknown",
        "department": settings.department or "",
        "dim": "vision" if images else "accuracy",
    }
    fields: dict[str, Any] = {**defaults, **draft, "images": images, "id": _name(pending)}
    if settings.dimension:
        fields["dim"] = settings.dimension
    try:
        record = Record.model_validate(fields)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise Rejected("fields", "; ".join(faults)) from None
    return record.model_copy(update={"weight": record.weight * settings.weight})


def _name(pending: _Pending) -> str:
    """A record's id: its own, else that of its row within its source, else the line."""
    draft, suffix = pending.draft, f"-{pending.number}" if pending.number else ""
    if "source" in draft and "id" in draft:
        return str(draft["id"])
    return f"{pending.source.name}:{draft.get('id', pending.row.line)}{suffix}"


def _finished(record: Record, image_hashes: list[str], system_prompt: str) -> Record:
    """With system prompt, language and hash."""
    messages = record.messages
    if system_prompt and messages[0].role != "system":
        messages = (Message(role="system", content=system_prompt), *messages)
    update: dict[str, Any] = {"messages": messages}
    if "lang" not in record.model_fields_set:
        update["lang"] = "zh" if HAN.search(record.answer) else "en"
    record = record.model_copy(update=update)
    return record.model_copy(update={"hash": record.content_hash(image_hashes)})


def _check_privacy(record: Record) -> None:
    kinds = privacy.findings("\n".join(turn.content for turn in record.messages))
    if kinds:
        raise Rejected("privacy", ", ".join(kinds))


def _links(record: Record) -> list[str]:
    """What ties a record to others: its cluster, its images and its pair; without an image, the same question.

    A question about an image ("what do you see?") is asked of many images and ties nothing.
    """
    links = [GIVEN + record.cluster] if record.cluster else []
    links += [IMAGE + Path(name).stem for name in record.images]
    links += [PAIR + record.pair] if record.pair else []
    if not record.images:
        asked = [[turn.role, plain(turn.content)] for turn in record.prompt if turn.role != "system"]
        links.append(PROMPT + files.hash_of(asked)[:16])
    return links
