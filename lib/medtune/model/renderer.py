"""A conversation as the model sees it: tokens by the base's own template, and the weight of each that is learned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medtune import files
from medtune.dataset import again
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.images import BROKEN, ImageError, bytes_of, upright_rgb
from medtune.model import libraries, padding, templates
from medtune.model.base import Base
from medtune.model.transcript import Transcriber, Way
from medtune.records import Message, Record, Span

FORM = 2  # of what is made of a record; whoever keeps it makes it again where this is another


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


class Renderer:
    """Turns records and prompts into examples with one base model's tokenizer, template and image processor.

    ``max_edge`` None: images are prepared already, as those of a data set are. Otherwise they may be anybody's, and
    are seen as ``prepare_data`` would keep them, no edge longer than that.
    """

    def __init__(self, base: Base, max_edge: int | None = None) -> None:
        self.base, self.max_edge = base, max_edge
        with templates.tried(base.chat_template, base.path):
            self.processor: Any = base.processor()
        self.tokenizer: Any = self.processor.tokenizer
        self._encoder = self.tokenizer.backend_tokenizer
        self._encoder.encode_special_tokens = True  # special tokens spelled out in a content stay text
        self._encoder.no_truncation()  # what tokenizer.json says of that was somebody's batch
        self._encoder.no_padding()
        self._transcriber = Transcriber(base, self.tokenizer)
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
        ways = self._transcriber.ways(record.messages, record.spans)
        made = next(found for way in ways if (found := self._tokens(record, way)))
        about = {"dim": record.dim, "label": record.label, "content": record.hash}
        return self._example(record.id, *made, images, **about)

    def _tokens(self, record: Record, way: Way) -> tuple[list[int], list[float], list[bool]] | None:
        """Tokens, their weights, and which are the last answer's.

        None where a token reaches from the template's text into an answer: when served, the prompt ends before it.
        """
        last = len(record.messages) - 1
        spoken = {index for index, message in enumerate(record.messages) if message.role == "assistant"}
        tokens: list[int] = []
        token_weights: list[float] = []
        answer: list[bool] = []
        for piece in way.pieces:
            if piece.special is not None:
                tokens.append(piece.special)
                token_weights.append(float(record.label) if piece.owner in spoken else 0.0)
                answer.append(piece.owner == last)
                continue
            encoding = self._encoding(piece.text)
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                found = piece.owned(start, end)
                learned = found.owner in spoken
                if learned and start < found.start and way.strict:
                    return None
                tokens.append(token)
                marked = way.spans if found.owner == last else ()
                weight = _weight(marked, start - found.offset, end - found.offset, float(record.label))
                token_weights.append(weight if learned else 0.0)
                answer.append(found.owner == last)
        return tokens, token_weights, answer

    def _encoding(self, text: str) -> Any:
        with libraries.reading(self.base.path, lambda: "tokenizer.json"):
            return self._encoder.encode(text, add_special_tokens=False)

    def prompt(self, messages: Sequence[Message], images: Sequence[Path] = ()) -> Example:
        """A conversation that waits for the assistant's turn, as an example without weights."""
        tokens: list[int] = []
        for piece in self._transcriber.prompt(messages):
            if piece.special is not None:
                tokens.append(piece.special)
            else:
                tokens += self._encoding(piece.text).ids
        return self._example("", tokens, [0.0] * len(tokens), [False] * len(tokens), tuple(images))

    def as_served(self, record: Record, example: Example) -> bool:
        """Whether the example is, to the token, the prompt that is served and then the answer as it is written."""
        start = int(np.argmax(example.answer))
        prompt = self.prompt(record.prompt, example.images).tokens
        return np.array_equal(example.tokens[:start], prompt) and self._transcriber.begins(record.messages)

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
                yield upright_rgb(bytes_of(path), self.max_edge)
        except (ImageError, *BROKEN) as error:
            said = getattr(error, "strerror", None) or error
            problem = tr("{path}: not an image one can open ({error})", path=path, error=said)
            stored = self.max_edge is None  # under images/ of its data set
            raise UserError(f"{problem}; {again(path.parent.parent)}" if stored else problem) from None

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, special ones left out; ids beyond the tokenizer (a padded vocabulary) too."""
        known = [int(i) for i in ids if int(i) < len(self.tokenizer)]
        return self.tokenizer.decode(known, skip_special_tokens=True)

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


def _weight(spans: Sequence[Span], start: int, end: int, usual: float) -> float:
    """Weight of the token over characters [start, end) of an answer with these spans."""
    return next((span.weight for span in spans if start < span.end and end > span.start), usual)
