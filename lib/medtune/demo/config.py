"""The shape of a small Qwen3-VL: its config.json and the processor files beside it, as upstream writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune import files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PATCH, MERGE = 16, 2  # pixels a patch; patches a side that become one visual token (32 pixels)


@dataclass(frozen=True)
class Shape:
    """Sizes of a small Qwen3-VL. The head dimension is hidden / heads and must be a multiple of 4."""

    vocabulary: int
    hidden: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 3
    intermediate: int = 448
    experts: int = 0  # 0: dense
    experts_per_token: int = 2
    tied: bool = False
    vision_hidden: int = 96
    vision_layers: int = 3
    vision_heads: int = 4
    vision_intermediate: int = 256
    deepstack: tuple[int, ...] = (0, 1)


def config(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json of a dense `qwen3_vl`, or of a `qwen3_vl_moe` when the shape has experts."""
    family = "qwen3_vl_moe" if shape.experts else "qwen3_vl"
    name = "Qwen3VLMoeForConditionalGeneration" if shape.experts else "Qwen3VLForConditionalGeneration"
    ids = tokenizer.token_to_id
    return {
        "architectures": [name],
        "dtype": "bfloat16",
        "eos_token_id": [ids("<|im_end|>"), ids("<|endoftext|>")],
        "image_token_id": ids("<|image_pad|>"),
        "model_type": family,
        "pad_token_id": ids("<|endoftext|>"),
        "text_config": _text(shape, family, tokenizer),
        "tie_word_embeddings": shape.tied,
        "video_token_id": ids("<|video_pad|>"),
        "vision_config": _vision(shape, family),
        "vision_end_token_id": ids("<|vision_end|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vocab_size": shape.vocabulary,
    }


def _text(shape: Shape, family: str, tokenizer: Tokenizer) -> dict[str, Any]:
    head = shape.hidden // shape.heads
    spatial = head // 2 * 5 // 16  # Qwen3-VL's split of the rotary half: 24 + 20 + 20 of 64
    text = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "dtype": "bfloat16",
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "head_dim": head,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": 4096,
        "model_type": f"{family}_text",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [head // 2 - 2 * spatial, spatial, spatial],
            "rope_type": "default",
        },
        "rope_theta": 10000.0,
        "tie_word_embeddings": shape.tied,
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }
    if shape.experts:
        text |= {
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "moe_intermediate_size": shape.intermediate,
            "norm_topk_prob": True,
            "num_experts": shape.experts,
            "num_experts_per_tok": shape.experts_per_token,
        }
    return text


def _vision(shape: Shape, family: str) -> dict[str, Any]:
    return {
        "deepstack_visual_indexes": list(shape.deepstack),
        "depth": shape.vision_layers,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": shape.vision_hidden,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": shape.vision_intermediate,
        "model_type": family,
        "num_heads": shape.vision_heads,
        "num_position_embeddings": 256,  # a 16 x 16 grid, interpolated to the image's own
        "out_hidden_size": shape.hidden,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }


def write(folder: Path, shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    """Write config.json, generation_config.json and the two preprocessor files; returns the config."""
    made = config(shape, tokenizer)
    files.write_json(folder / "config.json", made)
    files.write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "do_sample": False,
            "eos_token_id": made["eos_token_id"],
            "pad_token_id": made["pad_token_id"],
        },
    )
    pixels = {
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
    }
    # Despite their names both edges are areas in pixels: 4 to 64 visual tokens an image.
    size = {"longest_edge": 64 * (PATCH * MERGE) ** 2, "shortest_edge": 4 * (PATCH * MERGE) ** 2}
    files.write_json(
        folder / "preprocessor_config.json",
        {"size": size, **pixels, "image_processor_type": "Qwen2VLImageProcessorFast"},
    )
    files.write_json(
        folder / "video_preprocessor_config.json",
        {"size": {**size, "longest_edge": 8 * size["longest_edge"]}, **pixels, "fps": 2, "min_frames": 4,
         "max_frames": 16, "video_processor_type": "Qwen3VLVideoProcessor"},
    )  # fmt: skip
    return made
