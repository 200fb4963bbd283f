"""Assembly: a row of a source becomes drafts, a draft with its stored images becomes a sound record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medtune import files
from medtune.data import layouts, privacy
from medtune.data.dedup import plain
from medtune.data.imagestore import Picture, StoredImage, locate
from medtune.data.rejections import Rejected
from medtune.data.sources import Row, SourceFile
from medtune.data.turns import Draft
from medtune.records import IMAGE_MARKER, Message, Record
from medtune.schemas import DataConfig

HAN = re.compile(r"[㐀-鿿]")
# Links that hold records together in one split; the first of them in this order names the group.
GIVEN, IMAGE, PAIR, PROMPT = "cluster ", "image ", "pair ", "prompt "


@dataclass(frozen=True)
class Pending:
    """A draft on its way to becoming a record."""

    source: SourceFile
    row: Row
    draft: Draft
    pictures: tuple[Picture, ...]
    number: int  # among the drafts of its row, from 1; 0 where it is the only one

    @property
    def id(self) -> str:
        """Its own id where it says whose record it is; else source and the row's id or number."""
        if "source" in self.draft and "id" in self.draft:
            return str(self.draft["id"])
        suffix = f"-{self.number}" if self.number else ""
        return f"{self.source.name}:{self.draft.get('id', self.row.number)}{suffix}"

    @property
    def named(self) -> bool:
        """Whether the row itself says its id, which then may stand once; the ids we make are always made unique."""
        return "id" in self.draft


def drafts(source: SourceFile, row: Row) -> list[Pending]:
    """The drafts of a row with their pictures located; raises ``Rejected``."""
    if row.fault:
        raise Rejected("json", row.fault)
    layout, own = source.layout, layouts.record.marks(row.value)
    if not layout.matches(row.value):
        raise Rejected("layout", f"{layout.NAME}: {' + '.join(layout.KEYS)}")
    if own and source.settings.layout == "auto" and layout.NAME != layouts.record.NAME:  # past the rows that decided
        raise Rejected("layout", f"{', '.join(own)} in a file of {layout.NAME}: name its layout in data.yaml")
    made = list(layout.convert(row.value))
    numbers = range(1, len(made) + 1) if len(made) > 1 else [0]
    return [
        Pending(source, row, draft, _pictures(draft, source), number)
        for number, draft in zip(numbers, made, strict=True)
    ]


def record(pending: Pending, stored: Sequence[StoredImage], config: DataConfig) -> Record:
    """The record of a draft, sound and with its hash; raises ``Rejected``.

    What the draft leaves open comes from the settings of its source; their dimension and weight come on top.
    """
    made = _validated(pending, [image.name for image in stored])
    _check_sound(made)
    if config.privacy == "reject":
        kinds = privacy.findings("\n".join(turn.content for turn in made.messages))
        if kinds:
            raise Rejected("privacy", ", ".join(kinds))
    update: dict[str, Any] = {"weight": made.weight * pending.source.settings.weight}
    if config.system_prompt and made.messages[0].role != "system":
        update["messages"] = (Message(role="system", content=config.system_prompt), *made.messages)
    if "lang" not in made.model_fields_set:
        update["lang"] = "zh" if HAN.search(made.answer) else "en"
    made = made.model_copy(update=update)
    return made.model_copy(update={"hash": made.content_hash([image.sha256 for image in stored])})


def links(record: Record) -> list[str]:
    """What ties a record to others: its cluster, its images and its pair; without an image, the same question.

    A question about an image ("what do you see?") is asked of many images and ties nothing.
    """
    found = [GIVEN + record.cluster] if record.cluster else []
    found += [IMAGE + Path(name).stem for name in record.images]
    found += [PAIR + record.pair] if record.pair else []
    if not record.images:
        asked = [[turn.role, plain(turn.content)] for turn in record.prompt if turn.role != "system"]
        found.append(PROMPT + files.hash_of(asked)[:16])
    return found


def _pictures(draft: Draft, source: SourceFile) -> tuple[Picture, ...]:
    """Pictures of a draft, looked for from the file's folder and the source's."""
    folders = list(dict.fromkeys([source.path.parent, source.folder]))
    references = draft.get("images") or []
    if not isinstance(references, (list, tuple)) or not all(isinstance(one, str) for one in references):
        raise Rejected("fields", "images is a list of paths")
    return tuple(locate(reference, folders) for reference in references)


def _validated(pending: Pending, images: list[str]) -> Record:
    settings = pending.source.settings
    fields: dict[str, Any] = {
        "source": pending.source.name,
        "license": settings.license or "unknown",
        "department": settings.department or "",
        "dim": "vision" if images else "accuracy",
        **pending.draft,
        "images": images,
        "id": pending.id,
    }
    if settings.dimension:
        fields["dim"] = settings.dimension
    try:
        return Record.model_validate(fields)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise Rejected("fields", "; ".join(faults)) from None


def _check_sound(record: Record) -> None:
    """Raise ``Rejected`` with the first thing in turns, images or spans that keeps a conversation from teaching."""
    _check_turns(record.messages)
    _check_images(record.messages, len(record.images))
    end = max((span.end for span in record.spans), default=0)
    if end > len(record.answer):
        raise Rejected("span", f"ends at {end}, the answer has {len(record.answer)} characters")


def _check_turns(messages: Sequence[Message]) -> None:
    for number, message in enumerate(messages, 1):
        if not message.content.strip():
            raise Rejected("empty", f"turn {number} ({message.role})")
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise Rejected("no_assistant" if roles else "empty", " ".join(roles))
    if roles[-1] != "assistant":
        raise Rejected("last_not_assistant", " ".join(roles))
    spoken = roles[1:] if roles[0] == "system" else roles
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise Rejected("roles", " ".join(roles))


def _check_images(messages: Sequence[Message], images: int) -> None:
    markers = sum(message.content.count(IMAGE_MARKER) for message in messages if message.role == "user")
    if markers != images:
        raise Rejected("image_markers", f"{markers} markers in user turns, {images} images")
    if any(IMAGE_MARKER in message.content for message in messages if message.role == "system"):
        raise Rejected("image_markers", "a marker in the system turn")
