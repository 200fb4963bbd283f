"""Soundness: what a conversation must be before it can teach anything."""

from __future__ import annotations

from collections.abc import Sequence

from medtune.data.turns import Rejected
from medtune.records import IMAGE_MARKER, Message, Record


def check(record: Record) -> None:
    """Raise ``Rejected`` with the first thing that is wrong with turns, images or spans of the record."""
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
