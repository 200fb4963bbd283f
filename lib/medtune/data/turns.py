"""The draft: one row of a source in a record's words, its images still as the source names them.

Layouts make drafts from rows with the functions here. A draft is a dict of ``Record`` fields; ``images`` holds paths
or ``data:`` addresses. Whatever keeps a row from becoming a record is a ``Rejected`` with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medtune.data.rejections import Rejected
from medtune.files import hash_of
from medtune.records import IMAGE_MARKER

Draft = dict[str, Any]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


@dataclass(frozen=True)
class Turn:
    """One turn with a marker where each image stands, and each image's reference; None: the row's next image."""

    role: str
    content: str
    images: tuple[str | None, ...] = ()


def has(row: Any, *keys: str) -> bool:
    """Whether the row is an object with a value under every key."""
    return isinstance(row, dict) and all(row.get(key) is not None for key in keys)


def turn(role: Any, content: Any) -> Turn:
    """A turn from text, or from a list of OpenAI's content parts."""
    name = ROLES.get(str(role).strip().lower())
    if name is None:
        raise Rejected("role", f"{role!r}")
    if isinstance(content, str):
        text = content.strip()
        return Turn(name, text, (None,) * text.count(IMAGE_MARKER))
    if not isinstance(content, list):
        raise Rejected("empty", f"content is {type(content).__name__}")
    parts = [_part(part) for part in content]
    return Turn(name, "".join(text for text, _ in parts).strip(), tuple(image for _, found in parts for image in found))


def system_of(row: dict[str, Any]) -> list[Turn]:
    """The row's ``system``, where it has one, as the first turn."""
    return [turn("system", row["system"])] if row.get("system") else []


def turns(items: Any) -> list[Turn]:
    """Turns of a list of ``{role, content}`` or ``{from, value}``."""
    if not isinstance(items, list):
        raise Rejected("fields", f"a conversation is a list, not {type(items).__name__}")
    return [_of_object(item) for item in items]


def _of_object(item: Any) -> Turn:
    for role, content in (("role", "content"), ("from", "value")):
        if has(item, role):
            return turn(item[role], item.get(content))
    raise Rejected("fields", "a turn without role or from")


def _part(part: Any) -> tuple[str, tuple[str | None, ...]]:
    """Text and images of one content part."""
    if isinstance(part, str):
        return part, (None,) * part.count(IMAGE_MARKER)
    if not isinstance(part, dict):
        raise Rejected("fields", f"a content part is {type(part).__name__}")
    kind = str(part.get("type", ""))
    if kind in ("text", "input_text", "output_text"):
        text = str(part.get("text") or "")
        return text, (None,) * text.count(IMAGE_MARKER)
    if kind in ("image", "image_url", "input_image"):
        return IMAGE_MARKER, (_image_of(part),)
    raise Rejected("fields", f"content part of type {kind!r}")


def _image_of(part: dict[str, Any]) -> str | None:
    """The image a part names: image, image_url (a text or ``{url}``), url, path, or base64 in ``source``."""
    source = part.get("source")
    if isinstance(source, dict) and has(source, "data"):
        return f"data:{source.get('media_type', 'image/png')};base64,{source['data']}"
    for key in ("image", "image_url", "url", "path"):
        found = part.get(key)
        found = found.get("url") or found.get("path") if isinstance(found, dict) else found
        if isinstance(found, str) and found:
            return found
    return None


def images_of(row: dict[str, Any]) -> list[str]:
    """The row's own images: ``images`` or ``image``, one or a list, each a path or ``{path}``."""
    found = row.get("images") or row.get("image") or []
    items = found if isinstance(found, list) else [found]
    names = [item.get("path") or item.get("url") if isinstance(item, dict) else item for item in items]
    if any(not isinstance(name, str) or not name for name in names):
        raise Rejected("fields", "an image that is neither a path nor an address")
    return [str(name) for name in names]


def compose(conversation: Sequence[Turn], images: Sequence[str]) -> Draft:
    """A draft whose images stand in the order of their markers.

    A marker without an image of its own takes the row's next one. Where no turn has a marker, the row's images go
    before the first user turn, as LLaVA and mlx-vlm place them.
    """
    found = list(conversation)
    if images and not any(part.images for part in found):
        found = _with_images_first(found, len(images))
    spare = list(images)
    placed = [image or (spare.pop(0) if spare else None) for part in found for image in part.images]
    if spare or None in placed:
        raise Rejected("image_markers", f"{len(placed)} markers, {len(images)} images")
    return {"messages": [{"role": part.role, "content": part.content} for part in found], "images": placed}


def _with_images_first(conversation: list[Turn], count: int) -> list[Turn]:
    first = next((index for index, part in enumerate(conversation) if part.role == "user"), None)
    if first is None:
        raise Rejected("image_markers", f"{count} images and no user turn")
    content = IMAGE_MARKER * count + "\n" + conversation[first].content
    return [*conversation[:first], Turn("user", content, (None,) * count), *conversation[first + 1 :]]


def answered(row: dict[str, Any], prompt: Sequence[Turn], images: Sequence[str]) -> Iterator[Draft]:
    """The drafts of a row whose answers are labelled by the row itself.

    ``chosen`` and ``rejected`` beside the prompt give two drafts of one pair (DPO of TRL and LLaMA-Factory);
    otherwise the prompt ends with its answer and ``kto_tag`` or ``label`` says whether it is desirable.
    """
    if not has(row, "chosen", "rejected"):
        yield {**compose(prompt, images), "label": label_of(row)}
        return
    pair = hash_of([[part.role, part.content] for part in prompt] + [row["chosen"], row["rejected"]])[:16]
    for key, label in (("chosen", 1), ("rejected", 0)):
        yield {**compose([*prompt, *_answer(row[key])], images), "label": label, "pair": pair}


def _answer(value: Any) -> list[Turn]:
    if isinstance(value, str):
        return [turn("assistant", value)]
    return turns(value if isinstance(value, list) else [value])


def label_of(row: dict[str, Any]) -> int:
    """1 or 0 by LLaMA-Factory's ``kto_tag`` or TRL's boolean ``label``; 1 where the row has neither."""
    for key in ("kto_tag", "label"):
        if has(row, key):
            if row[key] not in (0, 1):  # True and False are 1 and 0
                raise Rejected("fields", f"{key} is none of 1, 0, true, false")
            return int(row[key])
    return 1


def identified(row: dict[str, Any], draft: Draft) -> Draft:
    """The draft with the row's own ``id``, where it has one."""
    name = row.get("id")
    return {**draft, "id": str(name)} if isinstance(name, (str, int)) and str(name) else draft
