"""Pre-trains the demo's base model: dialogues -> weights, on two CPU cores; a stopped run can be taken up."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medtune.demo import corpus, sheets, vision_pretraining
from medtune.demo.config import MERGE, PATCH
from medtune.demo.corpus import Dialogue
from medtune.records import IMAGE_MARKER

if TYPE_CHECKING:
    import mlx.core as mx
    from tokenizers import Tokenizer

POOL = 4  # batches drawn together and sorted by length, so that little is padded


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 20261123
    eye_steps: int = 600  # of the vision tower alone
    eye_images: int = 12
    eye_rate: float = 2e-3
    steps: int = 2400  # of the language model, with the tower as it is then
    text_rows: int = 16
    image_rows: int = 10
    learning_rate: float = 2e-3
    warmup: int = 60
    final: float = 0.02  # share of the learning rate left at the end
    weight_decay: float = 0.01
    grad_clip: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. Positions and targets are those of the supervised tokens alone."""

    ids: np.ndarray  # (B, T) int32
    rows: np.ndarray  # (S,) int32: which row, and
    columns: np.ndarray  # (S,) int32: which position predicts
    targets: np.ndarray  # (S,) int32
    pixels: np.ndarray | None  # (patches, 3 * 2 * PATCH * PATCH) float32
    grid: np.ndarray | None  # (images, 3) int32: 1, rows and columns of patches


def encode(dialogue: Dialogue, tokenizer: Tokenizer) -> tuple[list[int], int]:
    """Token ids of the dialogue as the chat template renders it, and where the last answer begins."""
    start, end, line = tokenizer.encode("<|im_start|><|im_end|>\n").ids
    before, pad, after = tokenizer.encode("<|vision_start|><|image_pad|><|vision_end|>").ids
    ids: list[int] = []
    answer = 0
    for message in dialogue.messages:
        ids += [start, *tokenizer.encode(message.role).ids, line]
        answer = len(ids)
        if IMAGE_MARKER in message.content and dialogue.shown is not None:
            width, height = sheets.render(dialogue.shown).size
            ids += [before, *[pad] * (width * height // (PATCH * MERGE) ** 2), after]
        ids += [*tokenizer.encode(message.content.replace(IMAGE_MARKER, "")).ids, end, line]
    return ids[:-1], answer  # the line feed after the last end token is never generated


def collate(dialogues: list[Dialogue], tokenizer: Tokenizer) -> Batch:
    """Pad to a multiple of 8 and gather what is supervised: the last answer and its end token."""
    coded = [encode(dialogue, tokenizer) for dialogue in dialogues]
    width = -(-max(len(ids) for ids, _ in coded) // 8) * 8
    table = np.full((len(coded), width), tokenizer.token_to_id("<|endoftext|>"), np.int32)
    rows, columns, targets = [], [], []
    for row, (ids, answer) in enumerate(coded):
        table[row, : len(ids)] = ids
        rows += [row] * (len(ids) - answer)
        columns += range(answer - 1, len(ids) - 1)
        targets += ids[answer:]
    shown = [dialogue.shown for dialogue in dialogues if dialogue.shown is not None]
    seen = [vision_pretraining.patches(one) for one in shown]
    return Batch(
        ids=table,
        rows=np.array(rows, np.int32),
        columns=np.array(columns, np.int32),
        targets=np.array(targets, np.int32),
        pixels=np.concatenate([pixels for pixels, _ in seen]) if seen else None,
        grid=np.array([grid for _, grid in seen], np.int32) if seen else None,
    )


def batches(recipe: Recipe, tokenizer: Tokenizer, done: int) -> Iterator[tuple[Batch, Batch]]:
    """The text and image batches of the steps after `done`; a step's batches depend on seed and step alone."""
    for number in range(done // POOL, -(-recipe.steps // POOL)):
        for step, (texts, images) in enumerate(_pool(recipe, number), start=number * POOL):
            if done <= step < recipe.steps:
                yield collate(texts, tokenizer), collate(images, tokenizer)


def _pool(recipe: Recipe, number: int) -> list[tuple[list[Dialogue], list[Dialogue]]]:
    """The dialogues of POOL steps, those of similar length together, in random order."""
    rng = random.Random(f"{recipe.seed}:{number}")
    texts = sorted((corpus.text_dialogue(rng) for _ in range(POOL * recipe.text_rows)), key=_length)
    images = sorted((corpus.image_dialogue(rng) for _ in range(POOL * recipe.image_rows)), key=_length)
    return [
        (
            texts[place * recipe.text_rows : (place + 1) * recipe.text_rows],
            images[place * recipe.image_rows : (place + 1) * recipe.image_rows],
        )
        for place in rng.sample(range(POOL), POOL)
    ]


def _length(dialogue: Dialogue) -> int:
    pixels = math.prod(sheets.render(dialogue.shown).size) if dialogue.shown else 0
    return sum(len(message.content) for message in dialogue.messages) + pixels // (PATCH * MERGE) ** 2


def summed_loss(model: Any, batch: Batch) -> mx.array:
    """Cross-entropy summed over the supervised tokens, in nats. The head sees supervised positions only."""
    import mlx.core as mx
    import mlx.nn as nn

    from medtune.model.architecture import Architecture

    ids = mx.array(batch.ids)
    seen = {} if batch.grid is None else {"image_grid_thw": mx.array(batch.grid)}
    pixels = None if batch.pixels is None else mx.array(batch.pixels)
    made = model.get_input_embeddings(ids, pixels, **seen)
    architecture = Architecture.of(model)
    hidden = architecture.decoder(
        ids, inputs_embeds=made.inputs_embeds, position_ids=made.position_ids,
        visual_pos_masks=made.visual_pos_masks, deepstack_visual_embeds=made.deepstack_visual_embeds,
    )  # fmt: skip
    logits = architecture.head(hidden[mx.array(batch.rows), mx.array(batch.columns)])
    return nn.losses.cross_entropy(logits, mx.array(batch.targets), reduction="sum")


def fit(model: Any, tokenizer: Tokenizer, recipe: Recipe, scratch: Path, save_every: int = 100) -> dict[str, float]:
    """Train `model` in place and return its last losses; a run stopped on the way goes on from `scratch`.

    First the vision tower alone, then, with the tower as it is, the language model.
    Raises ValueError when `scratch` holds the state of another recipe.
    """
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim

    from medtune.model.architecture import Architecture

    def loss(model: Any, text: Batch, image: Batch) -> mx.array:
        return (summed_loss(model, text) + summed_loss(model, image)) / (len(text.targets) + len(image.targets))

    results = _open_eyes(model, recipe, scratch)
    Architecture.of(model).tower.freeze()
    model.train()
    warm = optim.linear_schedule(0.0, recipe.learning_rate, recipe.warmup)
    cooling = max(1, recipe.steps - recipe.warmup)
    cool = optim.cosine_decay(recipe.learning_rate, cooling, recipe.final * recipe.learning_rate)
    schedule = optim.join_schedules([warm, cool], [recipe.warmup])
    optimizer = optim.AdamW(schedule, weight_decay=recipe.weight_decay, bias_correction=True)
    kept = scratch / "state.safetensors"
    done, loss_then = _resume(kept, model, optimizer, recipe)
    step_of = nn.value_and_grad(model, loss)
    recent = [loss_then] if done else []
    for step, (text, image) in enumerate(batches(recipe, tokenizer, done), start=done + 1):
        value, grads = step_of(model, text, image)
        grads, _ = optim.clip_grad_norm(grads, recipe.grad_clip)
        optimizer.update(model, grads)
        mx.eval(value, model.parameters(), optimizer.state)
        recent = [*recent[-49:], float(value)]
        if step % 20 == 0:
            print(f"step {step}/{recipe.steps} loss {sum(recent) / len(recent):.4f}", flush=True)
        if step % save_every == 0 or step == recipe.steps:
            _keep(kept, model, optimizer, recipe, step, sum(recent) / len(recent))
    model.unfreeze()
    model.eval()
    return results | {"train": round(sum(recent) / len(recent), 4)}


def _open_eyes(model: Any, recipe: Recipe, scratch: Path) -> dict[str, float]:
    """Train the vision tower, or take it from `scratch`; returns the shares of signs and topics it names."""
    from mlx.utils import tree_flatten

    from medtune.model.architecture import Architecture

    tower, path = Architecture.of(model).tower, scratch / "eyes.safetensors"
    if not path.exists():
        shares = vision_pretraining.train(tower, recipe.seed, recipe.eye_steps, recipe.eye_images, recipe.eye_rate)
        said = {"recipe": json.dumps(asdict(recipe)), "named": json.dumps(shares)}
        _write(path, dict(tree_flatten(tower.parameters())), said)
    weights, said = _read(path, recipe)
    tower.load_weights(list(weights.items()))
    return {f"named_{what}": share for what, share in json.loads(said["named"]).items()}


def rounded(model: Any) -> Any:
    """The model in bfloat16, as it is kept: half the size, and what every later figure is measured on."""
    import mlx.core as mx

    model.set_dtype(mx.bfloat16)
    return model


def held_out(model: Any, tokenizer: Tokenizer, recipe: Recipe, rows: int = 96) -> dict[str, float]:
    """Loss a token on dialogues not drawn in training, text and image apart; the model becomes float32 again."""
    import mlx.core as mx

    model.set_dtype(mx.float32)
    rng = random.Random(f"{recipe.seed}:held out")
    found = {}
    for name, draw in (("held_out_text", corpus.text_dialogue), ("held_out_image", corpus.image_dialogue)):
        parts = [collate([draw(rng) for _ in range(12)], tokenizer) for _ in range(rows // 12)]
        total = math.fsum(float(summed_loss(model, part)) for part in parts)
        found[name] = round(total / sum(len(part.targets) for part in parts), 4)
    return found


def _keep(path: Path, model: Any, optimizer: Any, recipe: Recipe, step: int, loss: float) -> None:
    from mlx.utils import tree_flatten

    state = dict(tree_flatten({"model": model.parameters(), "optimizer": optimizer.state}))
    _write(path, state, {"recipe": json.dumps(asdict(recipe)), "step": str(step), "loss": str(loss)})


def _resume(path: Path, model: Any, optimizer: Any, recipe: Recipe) -> tuple[int, float]:
    """Load the kept state, if there is one; returns after how many steps it was kept and the loss then."""
    from mlx.utils import tree_unflatten

    if not path.exists():
        return 0, 0.0
    state, said = _read(path, recipe)
    parts: Any = tree_unflatten(list(state.items()))
    model.update(parts["model"])
    optimizer.state = parts["optimizer"]
    return int(said["step"]), float(said["loss"])


def _write(path: Path, arrays: dict[str, Any], said: dict[str, str]) -> None:
    """Write so that a kill at any moment leaves the last whole file."""
    import mlx.core as mx

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"next-{path.name}")
    mx.save_safetensors(str(draft), arrays, metadata=said)
    draft.replace(path)


def _read(path: Path, recipe: Recipe) -> tuple[dict[str, Any], dict[str, str]]:
    import mlx.core as mx

    kept: Any = mx.load(str(path), return_metadata=True)
    if json.loads(kept[1]["recipe"]) != json.loads(json.dumps(asdict(recipe))):
        raise ValueError(f"{path} holds the state of another recipe: remove it to start anew")
    return kept
