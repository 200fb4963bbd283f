"""Teaches the demo's vision tower to see, before the language model learns to use what it sees.

From text and image alone a tower this small learns nothing for a long time: no gradient reaches a digit until the
language model attends to its place, and it attends to no place that tells it nothing. So each visual token first
learns to name what stands in its own cell, and what the whole image is (``sheets.cells``); the heads it names it with
are thrown away.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np

from medtune.demo import sampling, sheets

if TYPE_CHECKING:
    import mlx.core as mx

SIGNS = ("", *"0123456789.+-±", "高", "低")
TOPICS = (
    *("血常规", *("血常规" + row[0] for row in sheets.BLOOD_ROWS)),
    *("尿常规", *("尿常规" + item for item in sheets.URINE_ROWS)),
    *(kind + finding for kind, findings in sheets.FINDINGS.items() for finding in findings),
)
NAMES = ("signs", "topics", "wholes")
WARMUP = 20
POSITION_SCALE = 4  # MLX starts positions at 0.1, and white paper alone at 0.5
FLAT = 0.9  # share of its answer to an even patch that a kernel does not start with
CALM = 0.05  # price of the features' mean square, or what all images share would grow and drown what sets them apart
PLAIN = [TOPICS.index(kind) for kind in sheets.FINDINGS]  # an examination where nothing stands out
CLASSES = (len(SIGNS), len(SIGNS), len(TOPICS), len(TOPICS))


def labels(shown: sheets.Sheet | sheets.Examination) -> np.ndarray:
    """Class of left sign, right sign and topic for each visual token, (N, 3) int32."""
    known = [(SIGNS.index(a), SIGNS.index(b), TOPICS.index(topic)) for a, b, topic in sheets.cells(shown)]
    return np.array(known, np.int32)


def whole(shown: sheets.Sheet | sheets.Examination) -> int:
    """Class of the image itself: a sheet's title, an examination's kind and finding."""
    return TOPICS.index(shown.title if isinstance(shown, sheets.Sheet) else shown.kind + shown.finding)


def train(tower: Any, seed: int, steps: int, images: int, learning_rate: float) -> dict[str, float]:
    """Train the tower in place; returns the shares of NAMES named rightly over its last 20 steps."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim

    _sharpen(tower)
    seeing = _with_heads(tower)
    step_of = nn.value_and_grad(seeing, _loss)
    warm = optim.linear_schedule(0.0, learning_rate, WARMUP)
    cool = optim.cosine_decay(learning_rate, max(1, steps - WARMUP), 0.05 * learning_rate)
    optimizer = optim.AdamW(optim.join_schedules([warm, cool], [WARMUP]), weight_decay=0.01)
    shares: list[np.ndarray] = []
    for step in range(steps):
        batch = [mx.array(part) for part in _batch(random.Random(f"{seed}:eyes:{step}"), images)]
        (value, right), grads = step_of(seeing, *batch)
        optimizer.update(seeing, grads)
        mx.eval(value, right, seeing.parameters(), optimizer.state)
        shares = [*shares[-19:], np.array(right)]
        if step % 20 == 19:
            print(f"eyes {step + 1}/{steps} loss {float(value):.4f} {NAMES} {np.mean(shares, axis=0)}", flush=True)
    return {name: round(float(share), 4) for name, share in zip(NAMES, np.mean(shares, axis=0), strict=True)}


def _sharpen(tower: Any) -> None:
    """Start the tower nearly blind to flat light, so that paper and background do not outshine what is on them."""
    kernels = tower.patch_embed.proj.weight  # (width, frames, rows, columns, channels)
    tower.patch_embed.proj.weight = kernels - FLAT * kernels.mean(axis=(1, 2, 3), keepdims=True)
    tower.pos_embed.weight = POSITION_SCALE * tower.pos_embed.weight


def _batch(rng: random.Random, images: int) -> tuple[np.ndarray, ...]:
    """So many images; one in four is a sheet, whose many signs are learnt soonest.

    Pixels, grids, labels of the N tokens, classes of the images, and the (images, N) matrix that takes the mean of
    each image's tokens.
    """
    shown = [sampling.sheet(rng, "pretraining") for _ in range(images // 4)]
    shown += [sampling.examination(rng, "pretraining") for _ in range(images - len(shown))]
    pixels, grids = zip(*(patches(one) for one in shown), strict=True)
    cells = [labels(one) for one in shown]
    owner = np.repeat(np.arange(images), [len(one) for one in cells])
    mean = (owner == np.arange(images)[:, None]).astype(np.float32)
    wholes = np.array([whole(one) for one in shown], np.int32)
    means = mean / mean.sum(axis=1, keepdims=True)
    return np.concatenate(pixels), np.array(grids, np.int32), np.concatenate(cells), wholes, means


def _with_heads(tower: Any) -> Any:
    """The tower with heads for each of its outputs: the merger's and the deepstack mergers'."""
    import mlx.nn as nn

    class Seeing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = tower
            width = tower.merger.linear_fc2.weight.shape[0]
            outputs = 1 + len(tower.deepstack_merger_list)
            self.heads = [[nn.Linear(width, size) for size in CLASSES] for _ in range(outputs)]

        def outputs(self, pixels: mx.array, grid: mx.array) -> list[mx.array]:
            merged, deep = self.tower(pixels, grid)
            return [merged, *deep]

    return Seeing()


def _loss(
    seeing: Any, pixels: mx.array, grid: mx.array, cells: mx.array, wholes: mx.array, means: mx.array
) -> tuple[mx.array, mx.array]:
    """Cross-entropy over all heads, and the shares of NAMES that the merger's own heads name rightly.

    Most cells hold no sign and most of an examination no finding; these count a tenth, or saying "nothing" everywhere
    would be the first thing learnt. The whole is read from the mean of an image's tokens: what a language model sees
    whose attention is still even.
    """
    import mlx.core as mx
    import mlx.nn as nn

    outputs = seeing.outputs(pixels, grid)
    written = cells[:, :2] > 0
    striking = (cells[:, 2:] != mx.array(PLAIN)).all(axis=1)
    weights = [*mx.where(written, 1.0, 0.1).T, mx.where(striking, 1.0, 0.1)]
    losses = [CALM * (output**2).mean() for output in outputs]
    for output, heads in zip(outputs, seeing.heads, strict=True):
        for part, weight in enumerate(weights):
            losses.append((nn.losses.cross_entropy(heads[part](output), cells[:, part]) * weight).sum() / weight.sum())
        losses.append(nn.losses.cross_entropy(heads[-1](means @ output), wholes, reduction="mean"))
    merged, heads = outputs[0], seeing.heads[0]
    right = mx.stack([mx.argmax(head(merged), axis=-1) for head in heads[:-1]], axis=1) == cells
    signs = (right[:, :2] & written).sum() / written.sum()
    topics = (right[:, 2] * striking).sum() / striking.sum()
    return mx.stack(losses).sum(), mx.stack(
        [signs, topics, (mx.argmax(heads[-1](means @ merged), axis=-1) == wholes).mean()]
    )


def patches(shown: sheets.Sheet | sheets.Examination) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The image as the Qwen3-VL processor cuts it: patches of one 2 x 2 block together, each frame twice."""
    patch, merge = sheets.PATCH, sheets.MERGE
    image = np.asarray(sheets.render(shown).convert("RGB"), np.float32) / 127.5 - 1
    high, wide = image.shape[0] // patch, image.shape[1] // patch
    blocks = image.reshape(high // merge, merge, patch, wide // merge, merge, patch, 3)
    flat = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(high * wide, 3, 1, patch, patch)
    return np.repeat(flat, 2, axis=2).reshape(high * wide, -1), (1, high, wide)
