"""A conversation at the terminal with the tuned model, its answers streamed, the base one command away."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model.base import Base
from medtune.model.generation import stream
from medtune.model.renderer import Renderer
from medtune.model.tuned import TunedModel
from medtune.records import IMAGE_MARKER, Message
from medtune.run import Run


@dataclass
class Conversation:
    """Turns so far, images that wait for the next question, and which of the two models answers."""

    base: Base
    run: Run
    system: str
    max_tokens: int
    tuned: bool = True
    turns: list[Message] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)  # of all turns, in order
    waiting: list[Path] = field(default_factory=list)  # shown with the next question
    max_edge: int | None = None  # pixels to which an image is shrunk; None: as its training did

    def __post_init__(self) -> None:
        edge = self.run.max_image_edge if self.max_edge is None else self.max_edge
        self.renderer, self.model = Renderer(self.base, edge), TunedModel(self.base)

    def show(self, path: Path) -> None:
        """Show an image with the next question; a UserError where it is none."""
        if not os.path.isfile(path):  # never raises, whatever was typed
            raise UserError(tr("{path}: no such file", path=path))
        if not self.base.sees:
            raise UserError(tr("{model}: a text-only model; ask without an image", model=self.base.name))
        self.renderer.image_tokens(path)
        self.waiting.append(path)

    def forget(self) -> None:
        """Begin anew; the system prompt stays."""
        self.turns, self.images, self.waiting = [], [], []

    def say(self, text: str) -> Iterator[str]:
        """Ask, and yield the answer as it comes. What was said until an interruption stays in the conversation.

        A question that cannot be asked, since an image is gone by now, is a UserError and was never said.
        """
        shown, self.waiting = self.waiting, []
        content = IMAGE_MARKER * len(shown) + text.replace(IMAGE_MARKER, "")
        system = [Message(role="system", content=self.system)] if self.system else []
        turns, images = [*self.turns, Message(role="user", content=content)], [*self.images, *shown]
        prompt = self.renderer.prompt([*system, *turns], images)
        self.turns, self.images = turns, images
        answer = ""
        try:
            with self.model.wearing(self.run.path if self.tuned else None) as worn:
                for piece in stream(worn, self.renderer, prompt, max_tokens=self.max_tokens):
                    answer += piece
                    yield piece
        finally:
            self.turns.append(Message(role="assistant", content=answer.strip()))


def once(conversation: Conversation, prompt: str) -> None:
    """Ask one question and print the answer."""
    _print(conversation.say(prompt))


def converse(conversation: Conversation) -> None:
    """Talk until /quit or the end of input; Ctrl-C stops an answer, not the program."""
    with suppress(ImportError):
        import readline  # noqa: F401  # input() edits lines with it
    print(tr("Not a doctor: for information only. In an emergency call 120."))
    print(tr("/image PATH  /reset  /system TEXT  /base (adapter off or on)  /quit"))
    while True:
        try:
            line = input(f"\n{tr('you') if conversation.tuned else tr('you (base)')}> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n" + tr("/quit ends the conversation"))
            continue
        if line == "/quit":
            return
        if line.startswith("/"):
            _command(conversation, line)
        elif line:
            _interruptible(conversation, line)


def _interruptible(conversation: Conversation, line: str) -> None:
    answer = conversation.say(line)
    try:
        _print(answer)
    except UserError as error:
        print(error)
    except KeyboardInterrupt:
        answer.close()  # type: ignore[attr-defined]  # a generator: keep what was said, put the adapters back
        print(f" [{tr('stopped')}]")


def _print(pieces: Iterator[str]) -> None:
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _path(text: str) -> Path:
    """A path as it is typed, quoted, or dragged into a terminal, which escapes its spaces."""
    try:
        words = shlex.split(text)
    except ValueError:  # it's.png: a quote that is no quotation
        words = []
    name = words[0] if len(words) == 1 else text
    return Path(os.path.expanduser(name))  # leaves ~nobody as it is


def _command(conversation: Conversation, line: str) -> None:
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name == "/image" and rest:
        try:
            conversation.show(_path(rest))
            print(tr("shown with your next question"))
        except UserError as error:
            print(error)
    elif name == "/reset":
        conversation.forget()
        print(tr("a new conversation"))
    elif name == "/system":
        conversation.system = rest
        conversation.forget()
        print(tr("a new conversation under this system prompt") if rest else tr("a new conversation, no system prompt"))
    elif name == "/base":
        conversation.tuned = not conversation.tuned
        print(tr("the tuned model answers") if conversation.tuned else tr("the base model answers"))
    else:
        print(tr("{name}: no such command; /image PATH  /reset  /system TEXT  /base  /quit", name=name))
