"""The rows of a job: conversations of mixed length about nothing, every seventh with an image."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from medtune.records import IMAGE_MARKER, Message, Record

PHRASES = (
    "血压{}/{}毫米汞柱，", "早晨心率{}次，", "空腹血糖{}点{}，", "服药{}天后头晕，", "体温{}度{}，", "夜里咳嗽{}次，",
    "请问要不要复查？", "建议{}天后门诊复查，", "注意休息，", "少盐饮食，", "每日步行{}分钟，", "胸痛请就医，",
    "blood pressure {} over {}, ", "heart rate {}, ", "please see your doctor within {} days, ",
)  # fmt: skip
IMAGE_EVERY = 7


@dataclass(frozen=True)
class Mix:
    """How many rows there are and how long they are: log-uniform between ``shortest`` and ``longest`` tokens."""

    train: int = 200
    valid: int = 28
    shortest: int = 40
    longest: int = 480


def records(mix: Mix, split: str, count_tokens: Callable[[str], int], folder: Path) -> Iterator[Record]:
    """The rows of one split, the same for the same arguments; images are written under ``folder``/images."""
    rng = random.Random(split)
    for index in range(mix.train if split == "train" else mix.valid):
        tokens = math.exp(rng.uniform(math.log(mix.shortest), math.log(mix.longest)))
        images: tuple[str, ...] = ()
        if index % IMAGE_EVERY == IMAGE_EVERY - 1:
            images = (f"images/{split}-{index}.png",)
            _write_image(folder / images[0], rng)
        question = IMAGE_MARKER * len(images) + _text(0.4 * tokens, rng, count_tokens)
        answer = _text(0.6 * tokens, rng, count_tokens)
        yield Record(
            id=f"{split}-{index}",
            source="bench",
            license="cc0-1.0",
            dim="vision" if images else "accuracy",
            messages=(Message(role="user", content=question), Message(role="assistant", content=answer)),
            images=images,
        )


def _text(tokens: float, rng: random.Random, count_tokens: Callable[[str], int]) -> str:
    text = ""
    while not text or count_tokens(text) < tokens:
        phrase = rng.choice(PHRASES)
        text += phrase.format(*(rng.randint(2, 199) for _ in range(phrase.count("{}"))))
    return text


def _write_image(path: Path, rng: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = rng.choice(((448, 448), (512, 384), (384, 512)))
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(path)
