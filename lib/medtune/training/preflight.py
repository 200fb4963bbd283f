"""Is it really learning? A minute of checks before the long run, each of which has failed silently somewhere.

A later token must not move an earlier loss, another image must, every answer must end with a supervised end token,
training must see what serving will see, and four examples must be learnable.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.text import Text

from medtune.errors import raise_all
from medtune.i18n import tr
from medtune.model.arrays import random_key, scalar, set_random_key
from medtune.model.renderer import Renderer
from medtune.records import DIMENSIONS
from medtune.training.cluster import ALONE
from medtune.training.dataloader import DataLoader
from medtune.training.examples import EncodedRecord, RecordKind
from medtune.training.step import Step, make_optimizer
from medtune.training.weighting import Lesson

OVERFIT_ROWS, OVERFIT_STEPS, OVERFIT_RATE = 4, 10, 1e-3
SAME = 1e-3  # largest change of a log-probability that is rounding, nats
PREVIEWED = 3


def probes(lessons: Sequence[Lesson], folder: Path) -> list[Lesson]:
    """Four lessons that tell on a broken model: an example, the same with another last token; an example with an
    image, the same with the image's colours inverted (kept in ``folder``). Without images only the first two.
    """
    plain = _all_tokens(min(lessons, key=lambda lesson: len(lesson.example.tokens)))
    tokens = plain.example.tokens.copy()
    tokens[-1] = tokens[0]
    found = [plain, replace(plain, example=replace(plain.example, tokens=tokens))]
    with_image = [lesson for lesson in lessons if lesson.example.images]
    if with_image:
        seen = _all_tokens(min(with_image, key=lambda lesson: len(lesson.example.tokens)))
        swapped = tuple(_inverted(path, folder) for path in seen.example.images)
        found += [seen, replace(seen, example=replace(seen.example, images=swapped, content=""))]
    return found


def _all_tokens(lesson: Lesson) -> Lesson:
    """The same example, every token supervised alike."""
    return Lesson(lesson.example, np.ones(len(lesson.example.tokens), np.float32))


def _inverted(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(path) as image:
        copy = folder / f"inverted-{path.stem}.png"
        ImageOps.invert(image.convert("RGB")).save(copy)
    return copy


def check(
    step: Step,
    probe_loader: DataLoader,
    train_loader: DataLoader,
    mine: Sequence[int],
    renderer: Renderer,
    kinds: Mapping[RecordKind, EncodedRecord],
) -> list[str]:
    """Run all checks and return what was found, one line each; what is wrong is one UserError with all of it.

    ``mine`` are the training lessons this machine has activations of; ``kinds`` a record of each kind and its example.
    """
    problems = [*_leaks(step, probe_loader), *_blind(step, probe_loader), *_endless(train_loader.lessons, renderer)]
    problems += _unlike_served(kinds, renderer)
    first, last = _overfit(step, train_loader, mine)
    if not last < first:
        problems.append(
            tr(
                "{n} examples are not learned: loss {a:.3f} -> {b:.3f}; check lora.keys",
                n=OVERFIT_ROWS,
                a=first,
                b=last,
            )
        )
    raise_all(problems, tr("preflight"))
    seen = tr("another image moves the loss") if len(probe_loader.lessons) > 2 else tr("no images in the data")
    return [
        tr("no token sees a later one; {seen}; every answer ends with a supervised end token", seen=seen),
        tr("prompt and answer are the conversation as the template writes it, for {n} kinds of records", n=len(kinds)),
        tr("{n} examples can be learned: loss {a:.3f} -> {b:.3f}", n=OVERFIT_ROWS, a=first, b=last),
    ]


def _row_log_probs(step: Step, loader: DataLoader, index: int) -> np.ndarray:
    (batch,) = loader.stream([[index]])
    count = len(loader.lessons[index].example.tokens) - 1
    return np.array(step.row_log_probs(batch)[:count])


def _leaks(step: Step, loader: DataLoader) -> Iterator[str]:
    """The last token changed: every log-probability but its own must stay."""
    before, after = (_row_log_probs(step, loader, index) for index in (0, 1))
    moved = float(np.abs(before[:-1] - after[:-1]).max(initial=0))
    if not moved <= SAME:
        yield tr(
            "a later token moves an earlier loss by {moved:.4f}: attention is not causal in this mlx-vlm", moved=moved
        )


def _blind(step: Step, loader: DataLoader) -> Iterator[str]:
    """The image changed: the loss of the text after it must move."""
    if len(loader.lessons) < 4:
        return
    before, after = (_row_log_probs(step, loader, index) for index in (2, 3))
    if not np.abs(before - after).max() > SAME:
        yield tr("another image leaves the loss unchanged: the images do not reach the model")


def _endless(lessons: Sequence[Lesson], renderer: Renderer) -> Iterator[str]:
    """Right answers whose last supervised token is not one that ends an answer when served."""
    stops = set(renderer.stop_ids)
    endless = [
        lesson.example.id
        for lesson in lessons
        if lesson.desirable
        and lesson.supervised
        and int(lesson.example.tokens[np.flatnonzero(lesson.token_weights)[-1]]) not in stops
    ]
    if endless:
        yield tr(
            "{n} answers end with a token that does not stop the served model (first: {first}); the chat template and "
            "generation_config.json of the base model disagree",
            n=len(endless),
            first=endless[0],
        )


def _unlike_served(kinds: Mapping[RecordKind, EncodedRecord], renderer: Renderer) -> Iterator[str]:
    """Records whose tokens are not the prompt that is served and then the answer as the template writes it."""
    unlike = [example.id for record, example in kinds.values() if not renderer.as_served(record, example)]
    if unlike:
        yield tr(
            "what is learned is not what is served: prompt and answer are not the conversation as the chat template "
            "writes it (first: {first}); use the template the base came with",
            first=unlike[0],
        )


def _overfit(step: Step, loader: DataLoader, mine: Sequence[int]) -> tuple[float, float]:
    """Loss of a few right answers before and after a few steps on them; everything is put back afterwards."""
    chosen = [index for index in mine if loader.lessons[index].supervised and loader.lessons[index].desirable]
    chosen = sorted(chosen, key=lambda index: len(loader.lessons[index].example.tokens))[:OVERFIT_ROWS]
    (batch,) = loader.stream([chosen])
    with _untouched(step):
        step.optimizer = make_optimizer(step.config.optimizer)
        step.optimizer.learning_rate = OVERFIT_RATE
        losses = []
        for _ in range(OVERFIT_STEPS):
            loss, _, gradients = step.gradients([batch])
            step.apply(gradients)
            mx.eval(step.model.trainable_parameters(), step.optimizer.state)
            losses.append(scalar(loss))
    return losses[0], losses[-1]


@contextmanager
def _untouched(step: Step) -> Iterator[None]:
    parameters, optimizer, cluster = step.model.trainable_parameters(), step.optimizer, step.cluster
    step.cluster = ALONE
    key = random_key()
    try:
        yield
    finally:
        step.model.update(parameters)
        step.optimizer, step.cluster = optimizer, cluster
        set_random_key(key)


def preview(lessons: Sequence[Lesson], renderer: Renderer) -> None:
    """Show what is learned of three examples, a colour for each sign of weight; on a terminal only.

    A log must not hold what patients wrote.
    """
    if not sys.stdout.isatty():
        return
    console = Console()
    by_dim = {dim: next((x for x in lessons if x.example.dim == dim and x.supervised), None) for dim in DIMENSIONS}
    marked = next((x for x in lessons if (x.token_weights < 0).any()), None)
    console.print(
        Text.assemble(("+1 ", "green"), ("stressed ", "bold green"), ("wrong ", "bold red"), ("context", "dim"))
    )
    for lesson in [x for x in (marked, *by_dim.values()) if x is not None][:PREVIEWED]:
        console.print(_coloured(lesson, renderer), "")


def _coloured(lesson: Lesson, renderer: Renderer) -> Text:
    """The example's text, each run of equal weight in its colour, images as one mark."""
    text = Text(f"{lesson.example.id} ({lesson.example.dim}) ", "cyan")
    usual = (
        float(np.median(lesson.token_weights[lesson.token_weights > 0])) if (lesson.token_weights > 0).any() else 1.0
    )
    keep = lesson.example.tokens != renderer.image_token
    tokens, token_weights = lesson.example.tokens[keep], lesson.token_weights[keep]
    cuts = [0, *(np.flatnonzero(np.diff(token_weights)) + 1).tolist(), len(tokens)]
    for start, end in pairwise(cuts):
        weight = float(token_weights[start]) if start < end else 0.0
        style = "dim" if weight == 0 else "bold red" if weight < 0 else "bold green" if weight > usual else "green"
        text.append(renderer.tokenizer.decode(tokens[start:end].tolist()), style)
    return text
