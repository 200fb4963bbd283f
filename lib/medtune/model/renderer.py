"""A conversation as the model sees it: tokens by the base's own template, and the weight of each token to be learned.

Text of people never becomes a special token: only the template's own text may. Between two special tokens, the
template's text and the content are tokenised together, so that ordinary conversations get exactly the tokens that
LM Studio gives them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from PIL import Image

from medtune import files
from medtune.dataset import again
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.images import BROKEN, ImageError, upright_rgb
from medtune.model import padding
from medtune.model.base import Base
from medtune.records import IMAGE_MARKER, Message, Record

CONTENT = re.compile("\ue000(\\d+)\ue001")  # stands for a content while the template is rendered


@dataclass(frozen=True)
class Example:
    """One conversation, ready for the model.

    tokens (T,) int32, image placeholders expanded; token_weights (T,) float32: how much predicting a token from those
    before it counts (0: not supervised, negative: to be made unlikely); answer (T,) bool: the tokens of
    the last assistant turn with its end token, whose log-probabilities sum to that of the answer.
    """

    id: str
    tokens: np.ndarray
    token_weights: np.ndarray
    answer: np.ndarray
    images: tuple[Path, ...] = ()
    image_tokens: int = 0
    dim: str = "accuracy"
    label: int = 1
    content: str = ""  # hash over its record's texts and pixels, "" where nobody has made one

    @cached_property
    def key(self) -> str:
        """Hash of what a model makes of it: its tokens, and what its images show."""
        digest = hashlib.sha256(self.tokens.tobytes())
        if self.images:
            digest.update((self.content or files.hash_of([files.sha256(path) for path in self.images])).encode())
        return digest.hexdigest()

    @property
    def supervised(self) -> int:
        """Number of tokens with a weight."""
        return int(np.count_nonzero(self.token_weights))


@dataclass
class _Piece:
    """Either one special token or a run of text with, per character range, the message it comes from."""

    special: int | None = None
    text: str = ""
    owners: list[tuple[int, int, int]] = field(default_factory=list)  # (start, end, message index)


class Renderer:
    """Turns records and prompts into examples with one base model's tokenizer, template and image processor.

    ``max_edge`` None: images are prepared already, as those of a data set are. Otherwise they may be anybody's, and
    are seen as ``prepare_data`` would keep them, no edge longer than that.
    """

    def __init__(self, base: Base, max_edge: int | None = None) -> None:
        self.base, self.max_edge = base, max_edge
        self.processor: Any = base.processor()
        self.tokenizer: Any = self.processor.tokenizer
        self._encoder = self.tokenizer.backend_tokenizer
        self._encoder.encode_special_tokens = True  # special tokens spelled out in a content stay text
        added = self.tokenizer.added_tokens_decoder
        self._special = {str(token): index for index, token in added.items() if token.special}
        self._special_pattern = re.compile("|".join(re.escape(text) for text in sorted(self._special, key=len)[::-1]))
        self.image_token = int(base.config.get("image_token_id", -1))

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer: the config's, the generation config's and the tokenizer's."""
        generation = self.base.path / "generation_config.json"
        sources = [self.base.config, files.read_json(generation) if generation.exists() else {}]
        found = [source.get("eos_token_id") for source in sources] + [self.tokenizer.eos_token_id]
        flat = [item for value in found for item in (value if isinstance(value, list) else [value])]
        return sorted({int(item) for item in flat if item is not None})

    def encode(self, record: Record, root: Path) -> Example:
        """A record with images under ``root`` as an example; all assistant turns and their end tokens are supervised.

        In an undesirable record only the marked spans carry weight; its whole answer may be judged by a preference
        term instead.
        """
        images = tuple(root / name for name in record.images)
        pieces = self._pieces(record.messages, generation_prompt=False)
        last = len(record.messages) - 1
        tokens: list[int] = []
        token_weights: list[float] = []
        answer: list[bool] = []
        speaker = -1  # the message the text before a special token belongs to
        for piece in pieces:
            if piece.special is not None:
                ends_answer = speaker >= 0 and record.messages[speaker].role == "assistant"
                tokens.append(piece.special)
                token_weights.append(float(record.label) if ends_answer else 0.0)
                answer.append(ends_answer and speaker == last)
                speaker = -1
                continue
            encoding = self._encoder.encode(piece.text, add_special_tokens=False)
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                owner, offset = _owner(piece, start, end)
                tokens.append(token)
                token_weights.append(_weight(record, owner, start - offset, end - offset))
                answer.append(owner == last)
            speaker = piece.owners[-1][2] if piece.owners else -1
        about = {"dim": record.dim, "label": record.label, "content": record.hash}
        return self._example(record.id, tokens, token_weights, answer, images, **about)

    def prompt(self, messages: Sequence[Message], images: Sequence[Path] = ()) -> Example:
        """A conversation that waits for the assistant's turn, as an example without weights."""
        tokens: list[int] = []
        for piece in self._pieces(messages, generation_prompt=True):
            if piece.special is not None:
                tokens.append(piece.special)
            else:
                tokens += self._encoder.encode(piece.text, add_special_tokens=False).ids
        return self._example("", tokens, [0.0] * len(tokens), [False] * len(tokens), tuple(images))

    def pixels(self, example: Example) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Patches (P, C * t * p * p) float32 of all images in order and their grids (N, 3), or (None, None)."""
        if not example.images:
            return None, None
        opened = []
        for path in example.images:
            with self._opened(path) as image:
                opened.append(image.convert("RGB"))
        features = self.processor.image_processor(opened)
        return np.asarray(features["pixel_values"], np.float32), np.asarray(features["image_grid_thw"], np.int32)

    def inputs(self, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Tokens (B, T) of a batch, right-padded, and patches and grids of all its images, as ``pixels`` gives them."""
        pairs = [self.pixels(example) for example in examples if example.images]
        patches = [pixels for pixels, _ in pairs if pixels is not None]
        grids = [grid for _, grid in pairs if grid is not None]
        tokens = padding.token_matrix([example.tokens for example in examples])
        return tokens, np.concatenate(patches) if patches else None, np.concatenate(grids) if grids else None

    def image_tokens(self, path: Path) -> int:
        """How many tokens the image takes; a UserError where it is broken or too narrow to be seen."""
        with self._opened(path) as image:
            return self.processor.image_processor.num_image_tokens(image.height, image.width)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[Image.Image]:
        try:
            if self.max_edge is None:
                with Image.open(path) as image:
                    yield image
            else:
                yield upright_rgb(path.read_bytes(), self.max_edge)
        except (ImageError, *BROKEN) as error:
            said = getattr(error, "strerror", None) or error
            problem = tr("{path}: not an image one can open ({error})", path=path, error=said)
            stored = self.max_edge is None  # under images/ of its data set
            raise UserError(f"{problem}; {again(path.parent.parent)}" if stored else problem) from None

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, special ones left out; ids beyond the tokenizer (a padded vocabulary) too."""
        known = [int(i) for i in ids if int(i) < len(self.tokenizer)]
        return self.tokenizer.decode(known, skip_special_tokens=True)

    def _pieces(self, messages: Sequence[Message], generation_prompt: bool) -> list[_Piece]:
        slots: list[tuple[str, int]] = []
        turns = [_with_slots(index, message, slots) for index, message in enumerate(messages)]
        rendered = self._rendered(turns, generation_prompt)
        pieces = [_Piece()]
        for position, part in enumerate(CONTENT.split(rendered)):
            if position % 2:  # a content
                text, owner = slots[int(part)]
                start = len(pieces[-1].text)
                pieces[-1].text += text
                pieces[-1].owners.append((start, start + len(text), owner))
            else:
                self._add_template_text(pieces, part)
        return [piece for piece in pieces if piece.special is not None or piece.text or piece.owners]

    def _rendered(self, turns: list[dict[str, Any]], generation_prompt: bool) -> str:
        template = self.base.chat_template
        try:
            return self.tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False, add_generation_prompt=generation_prompt
            )
        except TemplateError as error:
            raise UserError(
                tr(
                    "{folder}: its chat template does not render ({error}); bring it back or download the model again",
                    folder=self.base.path,
                    error=error.message,
                )
            ) from None

    def _add_template_text(self, pieces: list[_Piece], text: str) -> None:
        last = 0
        for match in self._special_pattern.finditer(text):
            pieces[-1].text += text[last : match.start()]
            pieces += [_Piece(special=self._special[match.group()]), _Piece()]
            last = match.end()
        pieces[-1].text += text[last:]

    def _example(
        self,
        name: str,
        tokens: list[int],
        token_weights: list[float],
        answer: list[bool],
        images: tuple[Path, ...],
        **kind: Any,
    ) -> Example:
        pads = [position for position, token in enumerate(tokens) if token == self.image_token]
        if len(pads) != len(images):
            raise UserError(f"{name or 'prompt'}: {len(pads)} image places for {len(images)} images")
        counts = np.ones(len(tokens), np.int64)
        for position, path in zip(pads, images, strict=True):
            counts[position] = self.image_tokens(path)
        return Example(
            id=name,
            tokens=np.repeat(np.array(tokens, np.int32), counts),
            token_weights=np.repeat(np.array(token_weights, np.float32), counts),
            answer=np.repeat(np.array(answer, bool), counts),
            images=images,
            image_tokens=int(counts[pads].sum()),
            **kind,
        )


def _weight(record: Record, owner: int, start: int, end: int) -> float:
    """Weight of the token over characters [start, end) of message ``owner`` (-1: the template's own text)."""
    if owner < 0 or record.messages[owner].role != "assistant":
        return 0.0
    if owner == len(record.messages) - 1:
        for span in record.spans:
            if start < span.end and end > span.start:
                return span.weight
    return float(record.label)


def _with_slots(index: int, message: Message, slots: list[tuple[str, int]]) -> dict[str, Any]:
    """The message for the template, each text replaced by a slot; ``slots`` gains (text, message index)."""

    def slot(text: str) -> str:
        slots.append((text, index))
        return f"\ue000{len(slots) - 1}\ue001"

    if message.role != "user" or IMAGE_MARKER not in message.content:
        return {"role": message.role, "content": slot(message.content)}
    parts: list[dict[str, str]] = []
    for position, text in enumerate(message.content.split(IMAGE_MARKER)):
        parts += [{"type": "image"}] if position else []
        parts += [{"type": "text", "text": slot(text)}] if text else []
    return {"role": message.role, "content": parts}


def _owner(piece: _Piece, start: int, end: int) -> tuple[int, int]:
    """The message whose text the characters [start, end) of a piece overlap, and where that text starts."""
    for first, last, owner in piece.owners:
        if start < last and end > first:
            return owner, first
    return -1, 0
