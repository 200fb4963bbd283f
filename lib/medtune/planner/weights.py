"""Every module of a model, by name and shape, from its config.json alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from medtune.model import families
from medtune.model.families import Family
from medtune.schemas import Lora

Part = Literal["vision", "merger", "embedding", "attention", "mlp", "expert", "router", "norm", "head"]
PARTS: tuple[Part, ...] = ("vision", "merger", "embedding", "attention", "mlp", "expert", "router", "norm", "head")


@dataclass(frozen=True)
class ModuleShape:
    """One module's parameters: ``shape`` as MLX stores its weight, plus ``bias`` single numbers."""

    name: str
    part: Part
    shape: tuple[int, ...]  # (out, in) of a linear layer, (experts, out, in) of a stack of them
    bias: int = 0
    linear: bool = True  # False: norms, convolutions, positions: neither quantised nor adapted
    layer: int | None = None  # decoder layer

    @property
    def size(self) -> int:
        """Parameters, quantised or not."""
        return prod(self.shape) + self.bias

    def nbytes(self, quantization: dict[str, Any], item: int) -> float:
        """Bytes in memory; what is not quantised, scales and offsets take ``item`` bytes a number."""
        own = [quantization[name] for name in families.listed(self.name) if name in quantization]
        how = own[0] if own else quantization
        group, bits = (how.get("group_size", 64), how.get("bits")) if isinstance(how, dict) else (64, None)
        chosen = own or self.part not in ("vision", "merger")
        if not bits or not self.linear or not chosen or self.shape[-1] % group:
            return self.size * item
        return prod(self.shape) * (bits / 8 + 2 * item / group) + self.bias * item

    def adapter(self, lora: Lora) -> int:
        """Trainable parameters of a LoRA here: rank * (in + out) for every copy; DoRA adds one number per output."""
        *copies, rows, columns = self.shape
        return prod(copies) * lora.rank * (rows + columns) + (rows if lora.dora else 0)


@dataclass(frozen=True)
class LanguageModel:
    """Shape of a language model."""

    family: Family
    hidden: int
    layers: int
    heads: int
    key_heads: int
    head: int  # numbers a head
    inner: int
    vocabulary: int
    tied: bool  # the head is the embedding
    biased: tuple[str, ...]  # projections with a bias
    experts: int = 0
    experts_per_token: int = 0
    expert_inner: int = 0
    dense_layers: tuple[int, ...] = ()
    sparse_step: int = 1

    @classmethod
    def of(cls, config: dict[str, Any]) -> LanguageModel:
        """The language model of this config.json; a UserError names the families where it is of none."""
        family = families.of(config)
        text = {**config, **(config.get("text_config") or {})}
        return cls(
            family=family,
            hidden=text["hidden_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            key_heads=text.get("num_key_value_heads") or text["num_attention_heads"],
            head=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            inner=text["intermediate_size"],
            vocabulary=text["vocab_size"],
            tied=family.tied if text.get("tie_word_embeddings") is None else text["tie_word_embeddings"],
            biased=family.biases(text),
            experts=text.get("num_experts") or 0,
            experts_per_token=text.get("num_experts_per_tok") or 0,
            expert_inner=text.get("moe_intermediate_size") or 0,
            dense_layers=tuple(text.get("mlp_only_layers") or ()),
            sparse_step=text.get("decoder_sparse_step") or 1,
        )

    def sparse(self, layer: int) -> bool:
        """Whether this decoder layer has experts."""
        return self.experts > 0 and layer not in self.dense_layers and (layer + 1) % self.sparse_step == 0

    def modules(self) -> Iterator[ModuleShape]:
        """Embeddings, decoder layers, norm and head."""
        yield ModuleShape(f"{self.family.decoder}.embed_tokens", "embedding", (self.vocabulary, self.hidden))
        for layer in range(self.layers):
            yield from self._attention(layer)
            yield from self._mlp(layer)
        yield ModuleShape(f"{self.family.decoder}.norm", "norm", (self.hidden,), linear=False)
        if not self.tied:
            yield ModuleShape(self.family.head, "head", (self.vocabulary, self.hidden))

    def _attention(self, layer: int) -> Iterator[ModuleShape]:
        at = f"{self.family.layers}.{layer}"
        queries, keys = self.heads * self.head, self.key_heads * self.head
        shapes = {"q_proj": (queries, self.hidden), "k_proj": (keys, self.hidden), "v_proj": (keys, self.hidden)}
        for name, shape in {**shapes, "o_proj": (self.hidden, queries)}.items():
            bias = shape[0] if name in self.biased else 0
            yield ModuleShape(f"{at}.self_attn.{name}", "attention", shape, bias, layer=layer)
        norms = {"input_layernorm": self.hidden, "post_attention_layernorm": self.hidden}
        heads = {"self_attn.q_norm": self.head, "self_attn.k_norm": self.head} if self.family.head_norms else {}
        for name, size in {**norms, **heads}.items():
            yield ModuleShape(f"{at}.{name}", "norm", (size,), linear=False, layer=layer)

    def _mlp(self, layer: int) -> Iterator[ModuleShape]:
        at, part, copies, inner = f"{self.family.layers}.{layer}.mlp", "mlp", (), self.inner
        if self.sparse(layer):
            yield ModuleShape(f"{at}.gate", "router", (self.experts, self.hidden), layer=layer)
            at, part, copies, inner = f"{at}.switch_mlp", "expert", (self.experts,), self.expert_inner
        shapes = {"gate_proj": (inner, self.hidden), "up_proj": (inner, self.hidden), "down_proj": (self.hidden, inner)}
        for name, shape in shapes.items():
            bias = shape[0] if name in self.biased else 0
            yield ModuleShape(f"{at}.{name}", part, (*copies, *shape), bias, layer=layer)  # type: ignore[arg-type]
