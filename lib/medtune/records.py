"""The record: one line of a dataset, the same for every source.

An image stands where ``<image>`` stands in a user turn; the number of markers over all turns equals
``len(images)``. A span is a character range of the last assistant turn.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Dimension = Literal["accuracy", "warmth", "vision"]
DIMENSIONS: tuple[Dimension, ...] = ("accuracy", "warmth", "vision")
SPLITS = ("train", "valid", "test")
IMAGE_MARKER = "<image>"


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class Span(BaseModel):
    """Characters [start, end) of the last assistant turn and their weight.

    A weight above 1 stresses a correct figure, a negative one marks a wrong or overconfident statement.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: int = Field(ge=0)
    end: int
    weight: float = Field(allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if self.end <= self.start:
            raise ValueError(f"span [{self.start}, {self.end}) is empty")
        return self


class Check(BaseModel):
    """One deterministic check of an answer: its kind (a module of ``medtune.checks``) and arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    args: dict[str, Any] = Field(default_factory=dict)


class Record(BaseModel):
    """One conversation with its images, its dimension and how much each part counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    source: str
    license: str = "unknown"
    lang: str = "zh"
    department: str = ""
    dim: Dimension = "accuracy"
    label: Literal[0, 1] = 1  # 1 desirable, 0 undesirable
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # of its source; multiplies reward or penalty
    pair: str | None = None  # the desirable and the undesirable answer to one prompt share it
    messages: tuple[Message, ...]
    images: tuple[str, ...] = ()  # paths relative to the file the record stands in
    spans: tuple[Span, ...] = ()
    checks: tuple[Check, ...] = ()  # what a good answer must satisfy; used by evaluation only
    cluster: str = ""  # patient, conversation or image: never in two splits
    hash: str = ""  # sha256 over messages and the pixels of the images

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return self.messages[-1].content

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All turns before the last assistant turn."""
        return self.messages[:-1]

    def content_hash(self, image_hashes: list[str]) -> str:
        """Sha256 over what the model sees: roles, texts and the pixels of the images (``images.pixel_hash``)."""
        seen = [[m.role, m.content] for m in self.messages] + [image_hashes]
        return hashlib.sha256(json.dumps(seen, ensure_ascii=False).encode()).hexdigest()

    def to_json(self) -> str:
        """One line of JSON without defaults that say nothing."""
        return self.model_dump_json(exclude_defaults=True)
