"""A conversation as a base's chat template writes it: runs of text and special tokens, and whose text it is.

Text of people never becomes a special token: only the template's own text may. Between two special tokens, the
template's text and the content are tokenised together, so that ordinary conversations get exactly the tokens that
LM Studio gives them.

A template is plain where it writes a content wherever it stands and as it is. Others look into it: those of thinking
models cut the thoughts out of earlier answers and put an empty thought before an answer that has none. There a turn is
learned where the conversation up to it is written as when it was asked for, and what is learned is all that follows
the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any, NamedTuple

from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import libraries
from medtune.model.base import Base
from medtune.records import IMAGE_MARKER, Message, Span

SLOT = re.compile("\ue000(\\d+)\ue001")  # stands for a content while the template is rendered
KEPT = re.compile("\ue002(\\d+)\ue003")  # stands for a special token that is spelled out in a content


class Stretch(NamedTuple):
    """Characters [start, end) of a run that are of a message; a character at i is the message's at i - offset."""

    start: int
    end: int
    owner: int
    offset: int


@dataclass
class Piece:
    """Either one special token, with the message that it ends or stands in, or a run of text."""

    special: int | None = None
    owner: int = -1  # -1: the template's own
    text: str = ""
    stretches: list[Stretch] = field(default_factory=list)

    def owned(self, start: int, end: int) -> Stretch:
        """The stretch that the characters [start, end) overlap; one of nobody where there is none."""
        return next((s for s in self.stretches if start < s.end and end > s.start), NOBODY)


NOBODY = Stretch(0, 0, -1, 0)


class Way(NamedTuple):
    """A way to write a conversation; the spans are ranges of the last turn as it stands there.

    ``strict``: no token may reach from the template's text into an answer.
    """

    pieces: list[Piece]
    spans: Sequence[Span]
    strict: bool = True


class Transcriber:
    """Writes conversations with one base's template."""

    def __init__(self, base: Base, tokenizer: Any) -> None:
        self._base, self._tokenizer = base, tokenizer
        self._frames: dict[str, list[str]] = {}  # few: conversations differ in turns and images only
        added = tokenizer.added_tokens_decoder
        self._special = {str(token): index for index, token in added.items() if token.special}
        self._spelled = {index: text for text, index in self._special.items()}
        names = sorted(self._special, key=len)[::-1]
        self._pattern = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._hidden = [*names, "\ue000", "\ue001", "\ue002", "\ue003"]  # what a content must not bring into the text
        self._hide = re.compile("|".join(map(re.escape, self._hidden)))

    def prompt(self, messages: Sequence[Message]) -> list[Piece]:
        """A conversation that waits for the assistant's turn; nobody's text is told apart."""
        return list(self._pieces([(self._written(messages, True), -1)]))

    def ways(self, messages: Sequence[Message], spans: Sequence[Span]) -> Iterator[Way]:
        """The ways to write a whole conversation, the best first; a UserError after the last.

        Last comes one that does not go on where the prompt ends that is served; a training does not begin with it.
        """
        told = self._told_apart(messages)
        if told is not None and self._plain:
            yield Way(told, spans)
        served = self._as_served(messages, spans)
        if served is not None:
            yield served
        if told is not None:
            yield Way(told, spans, strict=False)
        raise UserError(
            tr(
                "{folder}: its chat template writes a conversation that waits for an answer otherwise than one that "
                "has it, so that what is learned would not be what is served; use another template or base",
                folder=self._base.path,
            )
        )

    def _told_apart(self, messages: Sequence[Message]) -> list[Piece] | None:
        """A whole conversation, each message's text told apart; None where the contents are not written as they are."""
        slots: list[tuple[str, int]] = []
        frame = self._frame([_turn(i, message, slots) for i, message in enumerate(messages)])
        shown = [slots[int(part)][0] if at % 2 else part for at, part in enumerate(frame)]
        hidden = [self._hidden_in(part) if at % 2 else part for at, part in enumerate(shown)]
        if "".join(hidden) != self._written(messages, False):
            return None
        pieces = [Piece()]
        for position, part in enumerate(shown):
            if position % 2:  # a content
                start = len(pieces[-1].text)
                pieces[-1].text += part
                owner = slots[int(frame[position])][1]
                pieces[-1].stretches.append(Stretch(start, start + len(part), owner, start))
            else:
                _extend(pieces, self._split(part))
        return [piece for piece in pieces if piece.special is not None or piece.text or piece.stretches]

    def _as_served(self, messages: Sequence[Message], spans: Sequence[Span]) -> Way | None:
        """A whole conversation in which what follows a prompt that was, or will be, given belongs to the answer.

        The spans of the last turn come back as ranges of what follows the last prompt. None where the template writes
        a conversation that waits for its answer otherwise than one that has it.
        """
        whole = self._written(messages, False)
        parts: list[tuple[str, int]] = []
        done = 0
        for index in (i for i, message in enumerate(messages) if message.role == "assistant"):
            start, end = self._reach(messages, index, whole)
            if start >= done and end > start:
                parts += [(whole[done:start], -1), (whole[start:end], index)]
                done = end
        if not parts or parts[-1][1] != len(messages) - 1:
            return None
        answer = self._shown(parts[-1][0])
        pieces = list(self._pieces([*parts, (whole[done:], -1)]))
        return Way(pieces, list(moved(spans, messages[-1].content, answer)))

    def begins(self, messages: Sequence[Message]) -> bool:
        """Whether the whole conversation begins, to the letter, with the one that waits for its last turn."""
        return self._written(messages, False).startswith(self._written(messages[:-1], True))

    def _reach(self, messages: Sequence[Message], index: int, whole: str) -> tuple[int, int]:
        """Where the answer ``index`` lies in the whole text as it was given; (0, 0) where it does not stand so there.

        It ends with its last special token: what follows that is the template's.
        """
        if not index:
            return 0, 0
        asked = self._written(messages[:index], True)
        told = whole if index == len(messages) - 1 else self._written(messages[: index + 1], False)
        if not (told.startswith(asked) and whole.startswith(told)):
            return 0, 0
        ends = [match.end() for match in self._pattern.finditer(told, len(asked))]
        return len(asked), ends[-1] if ends else len(told.rstrip())

    def _frame(self, turns: list[dict[str, Any]]) -> list[str]:
        """The template's text around contents that are slots, and the slots' numbers: the same for the same turns."""
        key = str(turns)
        if key not in self._frames:
            self._frames[key] = SLOT.split(self._render(turns, False))
        return self._frames[key]

    @cached_property
    def _plain(self) -> bool:
        """Whether the template writes contents as they are, and earlier turns as the last one."""
        slots: list[tuple[str, int]] = []
        roles = ("user", "assistant", "user", "assistant")
        turns = [_turn(i, Message(role=role, content="x"), slots) for i, role in enumerate(roles)]
        whole = self._render(turns, False)
        return all(whole.startswith(self._render(turns[:k], True) + turns[k]["content"]) for k in (1, 3))

    def _written(self, messages: Sequence[Message], waiting: bool) -> str:
        """The text by the real contents, the special tokens spelled out in them hidden."""
        return self._render([_spelled(message, self._hidden_in) for message in messages], waiting)

    def _render(self, turns: list[dict[str, Any]], waiting: bool) -> str:
        with libraries.reading(self._base.path, said=self._does_not_render):
            return self._tokenizer.apply_chat_template(
                turns, chat_template=self._base.chat_template, tokenize=False, add_generation_prompt=waiting
            )

    def _does_not_render(self, error: str) -> str:
        return tr(
            "{folder}: its chat template does not render ({error}); bring it back or download the model again",
            folder=self._base.path,
            error=error,
        )

    def _hidden_in(self, text: str) -> str:
        return self._hide.sub(lambda match: f"\ue002{self._hidden.index(match[0])}\ue003", text)

    def _shown(self, text: str) -> str:
        return KEPT.sub(lambda match: self._hidden[int(match[1])], text)

    def _pieces(self, parts: Iterable[tuple[str, int]]) -> Iterator[Piece]:
        """The pieces of texts, each of one message or nobody; a text's tokens do not reach into the next."""
        for text, owner in parts:
            at = 0  # in what is shown of this text
            for piece in self._split(text):
                piece.owner, piece.text = owner, self._shown(piece.text)
                if owner >= 0 and piece.text:
                    piece.stretches = [Stretch(0, len(piece.text), owner, -at)]
                at += len(piece.text) if piece.special is None else len(self._spelled[piece.special])
                if piece.special is not None or piece.text:
                    yield piece

    def _split(self, text: str) -> Iterator[Piece]:
        last = 0
        for match in self._pattern.finditer(text):
            yield Piece(text=text[last : match.start()])
            yield Piece(special=self._special[match.group()])
            last = match.end()
        yield Piece(text=text[last:])


def _extend(pieces: list[Piece], more: Iterable[Piece]) -> None:
    """Add pieces; text goes on in a run that is open, and a special token ends the message before it."""
    for piece in more:
        run = pieces[-1]
        if piece.special is not None:
            piece.owner = run.stretches[-1].owner if run.stretches else -1
            pieces += [piece, Piece()]
        else:
            run.text += piece.text


def moved(spans: Sequence[Span], content: str, answer: str) -> Iterator[Span]:
    """The spans of a content as ranges of the answer that a template made of it; what it left out has none."""
    if not spans:
        return
    blocks = SequenceMatcher(None, content, answer, autojunk=False).get_matching_blocks()
    for span in spans:
        for block in blocks:
            start, end = max(span.start, block.a), min(span.end, block.a + block.size)
            if start < end:
                yield Span(start=start - block.a + block.b, end=end - block.a + block.b, weight=span.weight)


def _turn(index: int, message: Message, slots: list[tuple[str, int]]) -> dict[str, Any]:
    """The message for the template, each text replaced by a slot; ``slots`` gains (text, message index)."""

    def slot(text: str) -> str:
        slots.append((text, index))
        return f"\ue000{len(slots) - 1}\ue001"

    return _spelled(message, slot)


def _spelled(message: Message, write: Any) -> dict[str, Any]:
    """The message as a chat template takes it, each of its texts as ``write`` has it."""
    if message.role != "user" or IMAGE_MARKER not in message.content:
        return {"role": message.role, "content": write(message.content)}
    parts: list[Mapping[str, str]] = []
    for position, text in enumerate(message.content.split(IMAGE_MARKER)):
        parts += [{"type": "image"}] if position else []
        parts += [{"type": "text", "text": write(text)}] if text else []
    return {"role": message.role, "content": parts}
