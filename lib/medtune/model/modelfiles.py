"""What the JSON files of a model folder may say, as far as anything is computed from it: types and bounds.

The libraries take what they find: a size of a billion hangs them, a text where a number belongs fails somewhere deep.
Bounds are many times what any model has; keys that are not named here are the libraries' own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medtune.config import errors as config_errors
from medtune.i18n import tr
from medtune.model import families

Width = Annotated[int, Field(ge=1, le=2**20)]  # of a layer: hidden sizes, heads
SmallCount = Annotated[int, Field(ge=0, le=2**12)]  # of layers, experts
Some = Annotated[int, Field(ge=1, le=2**12)]
Edge = Annotated[int, Field(ge=1, le=2**10)]  # of patches and windows
Pixels = Annotated[int, Field(ge=1, le=2**40)]
Vocabulary = Annotated[int, Field(ge=1, le=2**24)]
Token = Annotated[int, Field(ge=-1, le=2**24)]
AboveZero = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    """Of a file or a part of one; what is not named is let through."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Rope(_Part):
    """`rope_scaling` or `rope_parameters`."""

    mrope_section: list[Width] | None = Field(None, min_length=3, max_length=3)
    factor: AboveZero | None = None
    rope_theta: AboveZero | None = None


class Language(_Part):
    """`text_config`, or config.json where the language model stands at its top."""

    hidden_size: Width | None = None
    num_hidden_layers: Some | None = None
    num_attention_heads: Width | None = None
    num_key_value_heads: Width | None = None
    head_dim: Width | None = None
    intermediate_size: Width | None = None
    vocab_size: Vocabulary | None = None
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)] | None = None
    rope_theta: AboveZero | None = None
    rope_scaling: Rope | None = None
    rope_parameters: Rope | None = None
    tie_word_embeddings: bool | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    num_experts: SmallCount | None = None
    num_experts_per_tok: Some | None = None
    moe_intermediate_size: Width | None = None
    decoder_sparse_step: Some | None = None
    mlp_only_layers: list[SmallCount] | None = None
    max_position_embeddings: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _agree(self) -> Language:
        heads, keys = self.num_attention_heads, self.num_key_value_heads
        if heads and keys and heads % keys:
            raise ValueError(tr("num_attention_heads: not a multiple of num_key_value_heads"))
        if self.hidden_size and heads and not self.head_dim and self.hidden_size % heads:
            raise ValueError(tr("hidden_size: not a multiple of num_attention_heads"))
        if self.num_experts and self.num_experts_per_tok and self.num_experts_per_tok > self.num_experts:
            raise ValueError(tr("num_experts_per_tok: more than num_experts"))
        sections = self.rope_scaling and self.rope_scaling.mrope_section
        head = self.head_dim or (self.hidden_size // heads if self.hidden_size and heads else 0)
        if sections and head and 2 * sum(sections) != head:
            raise ValueError(tr("rope_scaling.mrope_section: must sum to half of head_dim"))
        return self


class VisionConfig(_Part):
    """`vision_config`, whose keys differ between the families."""

    depth: Some | None = None
    hidden_size: Width | None = None
    embed_dim: Width | None = None
    out_hidden_size: Width | None = None
    intermediate_size: Width | None = None
    num_heads: Width | None = None
    mlp_ratio: Annotated[float, Field(gt=0, le=1024)] | None = None
    in_channels: Edge | None = None
    patch_size: Edge | None = None
    temporal_patch_size: Edge | None = None
    spatial_merge_size: Edge | None = None
    window_size: Width | None = None
    num_position_embeddings: Annotated[int, Field(ge=1, le=2**24)] | None = None
    deepstack_visual_indexes: list[SmallCount] | None = Field(None, max_length=2**8)
    fullatt_block_indexes: list[SmallCount] | None = Field(None, max_length=2**12)

    @model_validator(mode="after")
    def _agree(self) -> VisionConfig:
        if self.depth and max(self.deepstack_visual_indexes or [0]) >= self.depth:
            raise ValueError(tr("deepstack_visual_indexes: beyond depth"))
        return self


class Packing(_Part):
    """`quantization`; the settings of single matrices stand in it by their names."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    bits: Annotated[int, Field(ge=1, le=32)] | None = None
    group_size: Annotated[int, Field(ge=1, le=2**16)] | None = None
    mode: str | None = None

    @model_validator(mode="after")
    def _single(self) -> Packing:
        for name, value in (self.model_extra or {}).items():
            if isinstance(value, dict):
                try:
                    Packing.model_validate(value)
                except ValidationError as error:
                    raise ValueError(f"{name}: " + "; ".join(config_errors.problems(error, Packing, {}))) from None
            elif "." in name and not isinstance(value, bool):
                raise ValueError(f"{name}: {config_errors.shown(value)}")
        return self


class Config(Language):
    """config.json."""

    model_type: str
    text_config: Language | None = None
    vision_config: VisionConfig | None = None
    quantization: Packing | None = None
    quantization_config: Packing | None = None
    image_token_id: Token | None = None
    video_token_id: Token | None = None
    eos_token_id: Token | list[Token] | None = None

    @model_validator(mode="after")
    def _sees_or_not(self) -> Config:
        if "vision_config" in self.model_fields_set and self.vision_config is None:
            raise ValueError(tr("vision_config: null; a text-only model has no such key"))
        return self


class Generation(_Part):
    """generation_config.json."""

    eos_token_id: Token | list[Token] | None = None


class Images(_Part):
    """preprocessor_config.json, and `image_processor` in processor_config.json; null is no default to mlx-vlm."""

    patch_size: Edge = 16
    temporal_patch_size: Edge = 2
    merge_size: Edge = 2
    min_pixels: Annotated[int, Field(ge=1, le=2**26)] | None = None
    max_pixels: Pixels | None = None
    size: dict[str, Pixels | None] | None = None
    image_mean: list[float] = Field([0.5] * 3, min_length=3, max_length=3)
    image_std: list[AboveZero] = Field([0.5] * 3, min_length=3, max_length=3)
    rescale_factor: AboveZero = 1 / 255
    do_rescale: bool | None = None
    do_normalize: bool | None = None
    do_convert_rgb: bool | None = None

    @model_validator(mode="after")
    def _agree(self) -> Images:
        size = self.size or {}
        low, high = self.min_pixels or size.get("shortest_edge"), self.max_pixels or size.get("longest_edge")
        if low and low > 2**26:
            raise ValueError(tr("size.shortest_edge: {found}, every image would be enlarged to that", found=low))
        if high and high < (self.patch_size * self.merge_size) ** 2:
            raise ValueError(tr("the largest image has {high} pixels, less than one token sees", high=high))
        if low and high is not None and low > high:
            raise ValueError(
                tr("the smallest image is larger than the largest ({low} > {high} pixels)", low=low, high=high)
            )
        return self


class Processor(_Part):
    """processor_config.json."""

    image_processor: Images | None = None
    chat_template: str | None = None


class Tokenizer(_Part):
    """tokenizer_config.json; its chat template is a text, or a list of named ones."""

    chat_template: str | list[dict[str, str]] | None = None
    tokenizer_class: str | None = None
    model_max_length: float | None = None
    added_tokens_decoder: dict[str, dict[str, Any]] | None = None
    extra_special_tokens: dict[str, Any] | list[Any] | None = None
    additional_special_tokens: list[Any] | None = None


class Template(_Part):
    """chat_template.json."""

    chat_template: str


class Index(_Part):
    """model.safetensors.index.json: which file of the folder has which tensor."""

    weight_map: dict[str, str]

    @model_validator(mode="after")
    def _here(self) -> Index:
        for name in sorted(set(self.weight_map.values())):
            if "/" in name or "\\" in name or not name.endswith(".safetensors"):
                raise ValueError(
                    tr("weight_map: {name} is not the name of a weight file of this folder", name=repr(name))
                )
        return self


class Anything(_Part):
    """An object."""


FILES: Mapping[str, type[_Part]] = {
    "config.json": Config,
    "generation_config.json": Generation,
    "preprocessor_config.json": Images,
    "processor_config.json": Processor,
    "video_preprocessor_config.json": Anything,
    "tokenizer_config.json": Tokenizer,
    "special_tokens_map.json": Anything,
    "added_tokens.json": Anything,
    "chat_template.json": Template,
    "model.safetensors.index.json": Index,
}


def problems(name: str, found: Any) -> Iterator[str]:
    """What is wrong with the content of the file ``name``, in the person's language; a file unknown here is right."""
    schema = FILES.get(name)
    if schema is None:
        return
    try:
        schema.model_validate(found)
    except ValidationError as error:
        yield from config_errors.problems(error, schema, {})
        return
    if name == "config.json":
        yield from _missing(found)


def _missing(config: Mapping[str, Any]) -> Iterator[str]:
    """The sizes without which no model of this family can be made."""
    family = families.FAMILIES.get(config["model_type"])
    if family is None:
        return
    text = {**config, **(config.get("text_config") or {})}
    parts: list[tuple[Mapping[str, Any], tuple[str, ...]]] = [(text, families.SIZES)]
    if family.vision and "vision_config" in config:
        parts.append((config["vision_config"], family.vision.sizes))
    for part, names in parts:
        yield from (tr("{key}: missing key", key=name) for name in names if part.get(name) is None)
