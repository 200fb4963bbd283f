"""Peak memory of a run's two phases, by part, from shapes alone.

The terms count the arrays MLX keeps for the backward pass of a decoder layer. What arithmetic does not give (BACKWARD,
FORWARD, PATCH and the factors of `subject.Engine`) was fitted to peaks MLX reported for dense and sparse models, in
float32 and bfloat16, compiled and not, with and without checkpointing. `tests/test_planner.py` measures them again.

Letters: D hidden size, Q and K widths of queries and keys, I inner width over the experts a token passes, H heads,
T length.
"""

from __future__ import annotations

from medtune.model.padding import HEAD_ROWS, TRUNK_TOKENS
from medtune.planner.model import FLOAT, Model
from medtune.planner.weights import PARTS, Part
from medtune.planner.workload import Load

BACKWARD = {"D": 6, "Q": 8, "K": 6, "I": 2, "HT": 2}  # arrays that a layer's backward pass works with, by width
FORWARD = {"D": 8, "Q": 5, "K": 8, "I": 2}  # and its forward pass alone; half as much again beside narrow activations
PATCH = 22  # float32 arrays a block of the vision tower works with, by its width
LAYER_PARTS: tuple[Part, ...] = ("attention", "mlp", "expert", "router", "norm")
MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1}

Parts = dict[str, float]  # bytes by what they are


def training_phase(model: Model, load: Load, *, checkpoint: bool, cached: bool) -> Parts:
    """Peak bytes while the adapters are trained; with the trunk's results ``cached`` only the top layers are there."""
    tokens = load.padded * (model.train.batch_size // model.train.grad_accumulation_steps)
    parts = {"layers": model.nbytes(*LAYER_PARTS, first=model.first if cached else 0)}
    if not cached:
        parts |= {"embedding": model.nbytes("embedding"), "vision": model.nbytes("vision", "merger")}
    parts["head"] = model.nbytes("head") or (model.nbytes("embedding") if cached else 0)
    parts["adapters"] = model.trainable * FLOAT
    parts["optimizer"] = parts["adapters"] * MOMENTS[model.train.optimizer.name]
    parts["gradients"] = parts["adapters"] * (1 if model.train.grad_accumulation_steps == 1 else 2)
    kept, working = _busiest(model, load, tokens, checkpoint)
    parts["working"] = working if cached else max(working, _tower_working(model, load, tokens))
    parts["activations"] = kept + tokens * _inputs(model, cached)
    return {name: size for name, size in parts.items() if size}


def trunk_phase(model: Model, load: Load, *, group: int) -> Parts:
    """Peak bytes while the frozen layers run once over every example, ``group`` decoder layers in memory at a time."""
    tokens = min(max(TRUNK_TOKENS, load.padded), load.records * load.padded)  # with padding
    d, item = widths(model), model.engine.item
    inner = item * sum(count * d[name] for name, count in FORWARD.items()) * (1.5 if model.engine.mixed else 1)
    block = model.engine.at_once(load.padded)
    scores = 0 if model.engine.mixed else item * d["H"] * block  # a GPU's attention keeps no scores
    layers = model.nbytes(*LAYER_PARTS) * min(group, model.first) / model.language.layers
    parts = {
        "layers": layers,
        "embedding": model.nbytes("embedding"),
        "vision": model.nbytes("vision", "merger"),
        "working": max(tokens * (inner + scores), _tower_working(model, load, tokens)),
    }
    return {name: size for name, size in parts.items() if size}


def whole_model(model: Model) -> float:
    """Bytes of all weights: what answering takes, in LM Studio too."""
    return model.nbytes(*PARTS)


def cache_bytes(model: Model, load: Load) -> int:
    """Disk of the trunk cache: per token a hidden row and three positions, per visual token what deepstack adds."""
    row = model.language.hidden * model.engine.item
    above = model.levels if model.first < model.levels else 0
    return load.tokens * (row + 3 * 4) + load.image_tokens * (4 + above * row)


def widths(model: Model) -> dict[str, int]:
    """D, Q, K, I and H of a decoder layer, and the experts a token passes."""
    language = model.language
    experts = language.experts_per_token if language.experts else 0
    return {
        "D": language.hidden, "Q": language.heads * language.head, "K": language.key_heads * language.head,
        "H": language.heads, "I": experts * language.expert_inner if experts else language.inner,
        "experts": experts,
    }  # fmt: skip


def _busiest(model: Model, load: Load, tokens: int, checkpoint: bool) -> tuple[float, float]:
    """Bytes kept for the backward pass and bytes worked with, at the step's busiest moment.

    That is either the loss, whose logits are large, or the backward pass of a layer.
    """
    layer = tokens * _working(model, load.padded)
    rows = min(HEAD_ROWS, int(tokens * load.supervised))
    logits = model.engine.logit_copies * rows * model.language.vocabulary * FLOAT
    one = tokens * _kept(model, load.padded)
    if not checkpoint:
        return model.top * one, layer + logits if model.engine.overlap else max(layer, logits)
    inputs = model.top * tokens * model.engine.item * model.language.hidden
    return inputs, layer + max(logits, one)


def _kept(model: Model, length: int) -> float:
    """Bytes a token that one layer keeps for its backward pass."""
    d, item = widths(model), model.engine.item
    scores = d["H"] * model.engine.seen(length)
    arrays = 3 * d["D"] + 3 * d["Q"] + 4 * d["K"] + 4 * d["I"] + d["experts"] * d["D"] + scores
    ranks = model.train.lora.rank * len(model.layer_targets)
    return item * arrays + FLOAT * (ranks + (_adapter_inputs(model) if model.engine.mixed else 0))


def _adapter_inputs(model: Model) -> int:
    """Width of the distinct inputs of one layer's adapters, which are kept in float32."""
    d = widths(model)
    sources = {"q_proj": "x", "k_proj": "x", "v_proj": "x", "o_proj": "attention", "gate_proj": "y", "up_proj": "y"}
    inputs = {}
    for module in model.layer_targets:
        name = module.name.rsplit(".", 1)[-1]
        inputs[sources.get(name, name)] = module.shape[-1] * (d["experts"] if module.part == "expert" else 1)
    return sum(inputs.values())


def _working(model: Model, length: int) -> float:
    """Bytes a token that the backward pass of one layer works with."""
    d = widths(model) | {"HT": model.language.heads * model.engine.at_once(length)}
    return model.engine.item * sum(count * d[name] for name, count in BACKWARD.items())


def _inputs(model: Model, cached: bool) -> int:
    """Bytes a token that enter the step: its hidden row, and the deepstack levels where they are still to be added."""
    levels = model.levels if model.first < model.levels or not cached else 0
    return model.engine.item * model.language.hidden * (1 + levels)


def _tower_working(model: Model, load: Load, tokens: int) -> float:
    """Bytes the vision tower works with on the images of one trunk batch."""
    tower, item = model.tower, model.engine.item
    if tower is None or not load.image_tokens:
        return 0
    patches = min(tokens, load.image_tokens) * tower.merge**2
    scores = 0 if model.engine.mixed else item * tower.heads * load.image * tower.merge**2
    return patches * (FLOAT * (tower.patch + PATCH * tower.hidden) + 2 * item * tower.inner + scores)
