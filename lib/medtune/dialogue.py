"""A conversation at the terminal with the tuned model, its answers streamed, the base one command away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from medtune.basemodel import Base
from medtune.chat import Chat
from medtune.errors import UserError
from medtune.generation import stream
from medtune.i18n import tr
from medtune.loaded import Loaded
from medtune.records import IMAGE_MARKER, Message


@dataclass
class Dialogue:
    """Turns so far, images that wait for the next question, and which of the two models answers."""

    base: Base
    run: Path
    system: str
    max_tokens: int
    tuned: bool = True
    turns: list[Message] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)  # of all turns, in order
    waiting: list[Path] = field(default_factory=list)  # shown with the next question

    def __post_init__(self) -> None:
        self.chat, self.loaded = Chat(self.base), Loaded(self.base)

    def show(self, path: Path) -> None:
        """Show an image with the next question; a UserError where it is none."""
        if not path.is_file():
            raise UserError(tr("{path}: no such file", path=path))
        try:
            with Image.open(path) as image:
                image.verify()
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            raise UserError(tr("{path}: not an image one can open ({error})", path=path, error=error)) from None
        self.waiting.append(path)

    def forget(self) -> None:
        """Begin anew; the system prompt stays."""
        self.turns, self.images, self.waiting = [], [], []

    def say(self, text: str) -> Iterator[str]:
        """Ask, and yield the answer as it comes. What was said until an interruption stays in the conversation."""
        content = IMAGE_MARKER * len(self.waiting) + text.replace(IMAGE_MARKER, "")
        self.turns.append(Message(role="user", content=content))
        self.images += self.waiting
        self.waiting = []
        system = [Message(role="system", content=self.system)] if self.system else []
        answer = ""
        try:
            with self.loaded.wearing(self.run if self.tuned else None) as model:
                prompt = self.chat.prompt([*system, *self.turns], self.images)
                for piece in stream(model, self.chat, prompt, max_tokens=self.max_tokens):
                    answer += piece
                    yield piece
        finally:
            self.turns.append(Message(role="assistant", content=answer.strip()))


def once(dialogue: Dialogue, prompt: str) -> None:
    """Ask one question and print the answer."""
    _print(dialogue.say(prompt))


def converse(dialogue: Dialogue) -> None:
    """Talk until /quit or the end of input; Ctrl-C stops an answer, not the program."""
    with suppress(ImportError):
        import readline  # noqa: F401  # input() edits lines with it
    print(tr("Not a doctor: for information only. In an emergency call 120."))
    print(tr("/image PATH  /reset  /system TEXT  /base (adapter off or on)  /quit"))
    while True:
        try:
            line = input(f"\n{tr('you') if dialogue.tuned else tr('you (base)')}> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n" + tr("/quit ends the conversation"))
            continue
        if line == "/quit":
            return
        if line.startswith("/"):
            _command(dialogue, line)
        elif line:
            _interruptible(dialogue, line)


def _interruptible(dialogue: Dialogue, line: str) -> None:
    answer = dialogue.say(line)
    try:
        _print(answer)
    except KeyboardInterrupt:
        answer.close()  # type: ignore[attr-defined]  # a generator: keep what was said, put the adapters back
        print(f" [{tr('stopped')}]")


def _print(pieces: Iterator[str]) -> None:
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _command(dialogue: Dialogue, line: str) -> None:
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name == "/image" and rest:
        try:
            dialogue.show(Path(rest.strip("'\"")).expanduser())
            print(tr("shown with your next question"))
        except UserError as error:
            print(error)
    elif name == "/reset":
        dialogue.forget()
        print(tr("a new conversation"))
    elif name == "/system":
        dialogue.system = rest
        dialogue.forget()
        print(tr("a new conversation under this system prompt") if rest else tr("a new conversation, no system prompt"))
    elif name == "/base":
        dialogue.tuned = not dialogue.tuned
        print(tr("the tuned model answers") if dialogue.tuned else tr("the base model answers"))
    else:
        print(tr("{name}: no such command; /image PATH  /reset  /system TEXT  /base  /quit", name=name))
