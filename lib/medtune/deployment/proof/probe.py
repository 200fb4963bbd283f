"""Asks a model folder what a program with mlx-vlm would get from it. Run as a script, by any interpreter that has it:

    python probe.py FOLDER REQUEST.json ANSWER.npz

It imports nothing of medtune, so that LM Studio's own interpreter and its pinned versions can run it. REQUEST.json is
a list of {"id", "messages", "images", "answer"}, messages as a chat template takes them, answer a list of token ids.
For each id, ANSWER.npz holds `<id>/tokens` (T,) int64, the prompt as this folder's own template, tokenizer and
processor make it, and `<id>/logprobs` (A, V) float32 of the answer's positions, each given the answer before it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: str, request: str, answer: str) -> None:
    """Load the folder, answer every case of the request, write the arrays."""
    if sys.platform == "linux":
        try:  # MLX's Linux wheel brings slow reference BLAS; must be loaded before mlx: the one medtune tried and took
            ctypes.CDLL(os.environ.get("MEDTUNE_OPENBLAS", "libopenblas.so.0"), mode=ctypes.RTLD_GLOBAL)
        except OSError:
            print("OpenBLAS not found: slower", file=sys.stderr)
    refuse_code(Path(folder))
    import mlx.core as mx

    sees = "vision_config" in json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    model, processor = (with_eyes if sees else text_only)(Path(folder))
    if mx.default_device().type == mx.DeviceType.cpu:
        model.set_dtype(mx.float32)  # half precision is slow there, and not there for experts
    arrays = {}
    for case in json.loads(Path(request).read_text(encoding="utf-8")):
        tokens, logprobs = (ask if sees else ask_text)(model, processor, case)
        arrays[f"{case['id']}/tokens"], arrays[f"{case['id']}/logprobs"] = tokens, logprobs
    np.savez(answer, **arrays)


def refuse_code(folder: Path) -> None:
    """End where the folder has a program or names one: mlx-vlm would run it."""
    found = [path.name for path in folder.rglob("*.py")]
    for path in folder.glob("[!.]*.json"):
        if path.name not in ("tokenizer.json", "vocab.json"):
            said = json.loads(path.read_text(encoding="utf-8"))
            found += [
                f"{path.name}: {key}" for key in ("auto_map", "model_file") if isinstance(said, dict) and key in said
            ]
    if found:
        raise SystemExit(f"Error: this folder brings code ({', '.join(found)})")


def with_eyes(folder: Path) -> tuple[Any, Any]:
    """Model and processor as LM Studio's engine takes them for a config.json with `vision_config`."""
    from mlx_vlm.utils import load_model, load_processor

    model = load_model(folder, lazy=True, trust_remote_code=False)
    return model, load_processor(folder, add_detokenizer=False, trust_remote_code=False)


def text_only(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer as it takes them for one without."""
    from mlx_lm.utils import load_model
    from transformers import AutoTokenizer

    model, _ = load_model(folder, lazy=True, trust_remote_code=False)
    return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def ask_text(model: Any, tokenizer: Any, case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(prompt tokens (T,), log-probabilities (A, V)) of one case, of a text-only model."""
    import mlx.core as mx

    text = tokenizer.apply_chat_template(case["messages"], tokenize=False, add_generation_prompt=True)
    prompt = np.array(tokenizer.encode(text, add_special_tokens=False), np.int64)
    ids = mx.array(np.concatenate([prompt, np.array(case["answer"], np.int64)]))[None]
    return prompt, log_softmax(model(ids)[0, len(prompt) - 1 : -1])


def ask(model: Any, processor: Any, case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(prompt tokens (T,), log-probabilities (A, V)) of one case."""
    import mlx.core as mx
    from mlx_vlm.utils import prepare_inputs
    from PIL import Image

    text = processor.tokenizer.apply_chat_template(
        case["messages"], chat_template=template(processor), tokenize=False, add_generation_prompt=True
    )
    images = [Image.open(path).convert("RGB") for path in case["images"]]
    inputs = prepare_inputs(processor, images=images or None, prompts=text, add_special_tokens=False)
    prompt = np.array(inputs["input_ids"])[0].astype(np.int64)
    ids = mx.array(np.concatenate([prompt, np.array(case["answer"], np.int64)]))[None]
    seen = {"image_grid_thw": inputs["image_grid_thw"]} if images else {}
    for module in model.modules():  # some families would count with the positions of the prompt before
        for memory in {"_position_ids", "_rope_deltas"} & {*module, *vars(module)}:
            setattr(module, memory, None)
    return prompt, log_softmax(model(ids, inputs.get("pixel_values"), **seen).logits[0, len(prompt) - 1 : -1])


def log_softmax(logits: Any) -> np.ndarray:
    """Log-probabilities float32 of logits (A, V)."""
    import mlx.core as mx

    logits = logits.astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def template(processor: Any) -> str:
    """The template mlx-vlm uses: the processor's, else the tokenizer's."""
    found = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if not found:
        raise SystemExit("no chat template in this folder")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
