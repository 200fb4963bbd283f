"""The model families: a row says all that differs between them, so that a new one is one row here and one test.

Names are MLX's unless Hugging Face's are named. What no row says is alike in all of them: decoder layers of
``self_attn`` and ``mlp`` with these projections, and a vision tower of ``patch_embed``, ``blocks`` and mergers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medtune.errors import UserError
from medtune.i18n import tr

QKV = ("q_proj", "k_proj", "v_proj")
ATTENTION = (*QKV, "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")  # all state


@dataclass(frozen=True)
class Library:
    """A library of model classes: where these keep their parts, and what Hugging Face calls the same."""

    distribution: str
    package: str
    language: str  # path of the module that owns decoder and head; "" for the model itself
    tower: str  # path of the vision tower; "" for none
    names: tuple[tuple[str, str], ...]  # beginnings of names, ours and Hugging Face's; the first that fits counts

    def under(self, name: str) -> str:
        """Path of a part of the language model."""
        return f"{self.language}.{name}" if self.language else name


MLX_VLM = Library(
    distribution="mlx-vlm",
    package="mlx_vlm.models",
    language="language_model",
    tower="vision_tower",
    names=(
        ("language_model.model.", "model.language_model."),
        ("vision_tower.", "model.visual."),
        ("language_model.lm_head", "lm_head"),
        ("language_model.model.", "model."),  # the text model by itself, and as transformers 4.51 and older wrote it
        ("vision_tower.", "visual."),
    ),
)
MLX_LM = Library(
    distribution="mlx-lm",
    package="mlx_lm.models",
    language="",
    tower="",
    names=(("model.", "model."), ("lm_head", "lm_head")),
)


@dataclass(frozen=True)
class Vision:
    """The build of a vision tower; ``hidden`` to ``levels`` are keys of vision_config, "" for what it has not."""

    merger: tuple[str, str, str]  # what stands in a merger: its norm, its first and its second matrix
    mlp: tuple[str, ...]  # the matrices of a block's MLP, the last leads back to the width of the tower
    hidden: str = "hidden_size"  # width of the tower
    inner: str = "intermediate_size"  # width inside a block's MLP
    ratio: str = ""  # inner / hidden, where that is said instead; 4 where neither is
    out: str = "out_hidden_size"  # width of the language model
    positions: str = ""  # how many positions are learned
    levels: str = ""  # deepstack: the blocks whose output is added to decoder layers
    patch_bias: bool = False  # whether the patch embedding has a bias
    norm_bias: bool = True
    mergers: tuple[str, str] = ("merger", "deepstack_merger_list")  # what follows the blocks, and what deepstack adds
    # LM Studio's engine rewrites preprocessor_config.json when it loads some (mlx-engine 08f0c07, 2026-08-21):
    app_drops_size: bool = False  # its `size`
    app_processor: tuple[str, str] = ("", "")  # the image_processor_type it replaces, and by which

    @property
    def sizes(self) -> tuple[str, ...]:
        """Keys that vision_config states."""
        inner = () if self.ratio else (self.inner,)
        positions = (self.positions,) if self.positions else ()
        return (self.hidden, self.out, *inner, *positions, "num_heads", "depth", "spatial_merge_size", "patch_size")


@dataclass(frozen=True)
class Family:
    """What one ``model_type`` of config.json stands for."""

    model_type: str
    library: Library
    vision: Vision | None = None  # None: text only
    head_norms: bool = False  # queries and keys are normalised head by head
    older_names: bool = False  # whether its published models have the names of transformers 4.51 and before
    tied: bool = False  # whether the head is the embedding where config.json does not say
    biased: tuple[str, ...] = ()  # projections with a bias
    biased_if: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # those with one where config.json has a key

    @property
    def classes(self) -> str:
        """The module with its ``Model``."""
        return f"{self.library.package}.{self.model_type}"

    @property
    def decoder(self) -> str:
        """Path of the module that owns ``embed_tokens``, ``layers`` and ``norm``."""
        return self.library.under("model")

    @property
    def layers(self) -> str:
        """Path of the decoder layers."""
        return f"{self.decoder}.layers"

    @property
    def head(self) -> str:
        """Path of the head, where it is not tied."""
        return self.library.under("lm_head")

    def biases(self, text: Mapping[str, Any]) -> tuple[str, ...]:
        """The projections with a bias in a language model of this config."""
        return self.biased + tuple(name for key, names in self.biased_if.items() if text.get(key) for name in names)

    def part(self, name: str) -> str:
        """Which part of the model a parameter on an adapted matrix belongs to, by its full name."""
        if self.vision and name.startswith(f"{self.library.tower}."):
            inside = name.removeprefix(f"{self.library.tower}.").split(".")[0]
            return "merger" if inside in self.vision.mergers else "vision"
        if ".switch_mlp." in name:
            return "expert"
        if ".mlp.gate." in name:
            return "router"
        return "attention" if ".self_attn." in name else "mlp"

    def mlx_name(self, name: str) -> str:
        """MLX's name of a module or tensor that may carry Hugging Face's."""
        renamed = (ours + name.removeprefix(theirs) for ours, theirs in self.library.names if name.startswith(theirs))
        return next(renamed, name)

    def hf_name(self, name: str) -> str:
        """Hugging Face's name of an MLX module or tensor; a UserError where it has none."""
        names = self.library.names[::-1] if self.older_names else self.library.names
        for ours, theirs in names:
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        raise UserError(tr("{name}: no such tensor in Hugging Face's layout", name=name))


QWEN2_MERGER = ("ln_q", "mlp.0", "mlp.2")
QWEN3_VISION = Vision(
    merger=("norm", "linear_fc1", "linear_fc2"),
    mlp=("linear_fc1", "linear_fc2"),
    positions="num_position_embeddings",
    levels="deepstack_visual_indexes",
    patch_bias=True,
)
QWEN2_5_VISION = Vision(
    merger=QWEN2_MERGER, mlp=MLP, norm_bias=False, app_processor=("Qwen2_5_VLImageProcessor", "Qwen2VLImageProcessor")
)
QWEN2_VISION = Vision(  # its `hidden_size` is the language model's
    merger=QWEN2_MERGER,
    mlp=("fc1", "fc2"),
    hidden="embed_dim",
    ratio="mlp_ratio",
    out="hidden_size",
    app_drops_size=True,
)

FAMILIES = {
    family.model_type: family
    for family in (
        Family("qwen3_vl", MLX_VLM, QWEN3_VISION, head_norms=True),
        Family("qwen3_vl_moe", MLX_VLM, QWEN3_VISION, head_norms=True),
        Family("qwen2_5_vl", MLX_VLM, QWEN2_5_VISION, older_names=True, tied=True, biased=QKV),
        Family("qwen2_vl", MLX_VLM, QWEN2_VISION, older_names=True, biased=QKV),
        Family("qwen3", MLX_LM, head_norms=True),
        Family("qwen3_moe", MLX_LM, head_norms=True),
        Family("qwen2", MLX_LM, tied=True, biased=QKV),
        Family("llama", MLX_LM, tied=True, biased_if={"attention_bias": ATTENTION, "mlp_bias": MLP}),
    )
}


def of(config: Mapping[str, Any]) -> Family:
    """The family of this config.json; a UserError names those that are known where it is another."""
    kind = config.get("model_type", "")
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(tr("model type {kind}: not supported; choose one of {known}", kind=kind, known=known))
    return FAMILIES[kind]


def is_vision(name: str) -> bool:
    """Whether a tensor stands in the vision tower of some family, by MLX's name or Hugging Face's."""
    libraries = [family.library for family in FAMILIES.values() if family.vision]
    return any(
        ours.startswith(f"{library.tower}.") and name.startswith((ours, theirs))
        for library in libraries
        for ours, theirs in library.names
    )


def listed(module: str) -> tuple[str, ...]:
    """The names by which config.json's `quantization` may list a module: with or without the language model's path."""
    paths = {f"{family.library.language}." for family in FAMILIES.values()}
    return module, *(module.removeprefix(path) for path in sorted(paths) if module.startswith(path))
