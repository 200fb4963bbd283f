"""texts -> the tokenizer files of a Qwen3-VL folder: Qwen's own byte-level BPE scheme with a small vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune import files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Qwen2's split: letters (Chinese too) with at most one sign before them, digits one by one, signs, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL = (  # never printed: the order of Qwen3-VL, so that a reader of its files finds his way
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MARKUP = (  # printed like words
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def train(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of exactly `size` tokens, the control and markup tokens last.

    Raises ValueError when the texts are too poor to give that many merges: the model's embedding has `size` rows,
    and mlx-vlm's detokenizer fails on an id without a token.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    room = size - len(CONTROL) - len(MARKUP)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=room, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKUP])
    if tokenizer.get_vocab_size() != size:
        raise ValueError(f"the texts give {tokenizer.get_vocab_size()} tokens, not {size}")
    return tokenizer


def write(folder: Path, tokenizer: Tokenizer) -> None:
    """Write what transformers' Qwen2 tokenizer reads, and the chat template in both upstream forms."""
    template = TEMPLATE.read_text(encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))  # vocab.json, merges.txt
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    files.write_json(folder / "chat_template.json", {"chat_template": template})
    files.write_json(folder / "tokenizer_config.json", _settings(tokenizer, template))
    ids = {token: tokenizer.token_to_id(token) for token in CONTROL + MARKUP}
    files.write_json(folder / "added_tokens.json", ids)
    special = {"content": "<|im_end|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    files.write_json(
        folder / "special_tokens_map.json",
        {
            "additional_special_tokens": list(CONTROL[1:]),
            "eos_token": special,
            "pad_token": {**special, "content": "<|endoftext|>"},
        },
    )


def _settings(tokenizer: Tokenizer, template: str) -> dict[str, Any]:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {"content": token, **plain, "special": token in CONTROL}
            for token in CONTROL + MARKUP
        },
        "additional_special_tokens": list(CONTROL[1:]),
        "bos_token": None,
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
