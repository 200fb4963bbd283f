"""The schema of each of the four config files; what a key means stands beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from medtune import checks
from medtune.config import Strict
from medtune.errors import UserError, raise_all
from medtune.i18n import tr
from medtune.records import Dimension

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what each generator of random numbers takes
RESERVED = ("lmstudio-community", "mlx-community")  # LM Studio takes what lies there for its own, and hides it
KTO_MICRO_BATCH = 4  # examples: its estimate of the divergence is a mean over the micro-batch, noise when that is small


def _known(kind: str) -> str:
    if kind not in checks.kinds():
        raise ValueError(tr("no such check; there are {kinds}", kinds=", ".join(checks.kinds())))
    return kind


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]+([-._][A-Za-z0-9]+)*", name):  # no spaces, nothing hidden
        raise ValueError(tr("must be letters and digits, with one of - . _ between them"))
    return name


CheckKind = Annotated[str, AfterValidator(_known)]
FolderName = Annotated[str, AfterValidator(_folder_name)]


class Source(Strict):
    """One file or folder of raw data and how to read it."""

    path: str
    layout: str = "auto"  # a module of medtune.layouts, or auto
    weight: Positive = 1.0  # multiplies every record's weight
    dimension: Dimension | None = None  # null: as the records say, else vision with images, else accuracy
    license: str | None = None
    department: str | None = None
    standards: list[str] = Field(default_factory=list)  # that its figures follow, with their versions


class DataConfig(Strict):
    """data.yaml: sources -> dataset."""

    tokenizer: str  # model folder, Hub id in the local cache or LM Studio key: its tokenizer and processor count tokens
    sources: list[Source]
    system_prompt: str  # prepended where a conversation has none; "" for none
    max_seq_length: Count  # tokens, images included; longer records are rejected, never cut
    max_image_edge: Annotated[int, Field(ge=32)]  # pixels; larger images are scaled down
    valid_fraction: Fraction  # of the records of each dimension
    test_fraction: Fraction
    seed: Seed
    privacy: Literal["off", "reject"]  # reject: records that hold an ID number, a telephone number ...
    dedup: Literal["off", "exact", "near"]


class Optimizer(Strict):
    """The optimizer, as MLX has it, and the gradient clip."""

    name: Literal["adamw", "adam", "sgd"]
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    grad_clip: Positive | None  # global norm; null: none

    @model_validator(mode="after")
    def _decays(self) -> Optimizer:
        if self.name == "adam" and self.weight_decay:
            raise ValueError(tr("adam has no weight_decay: set it to 0 or choose adamw"))
        return self


class Cosine(Strict):
    """Warm-up, then half a cosine down to ``final`` times the learning rate."""

    name: Literal["cosine"]
    warmup: Annotated[int, Field(ge=0)]  # optimizer steps
    final: Annotated[float, Field(ge=0, le=1)]  # share of the peak learning rate at the last step


class Constant(Strict):
    """The learning rate as it is, after ``warmup`` steps."""

    name: Literal["constant"]
    warmup: Annotated[int, Field(ge=0)] = 0


class Lora(Strict):
    """Where the adapters sit and how large they are; the multiplier is alpha / rank (rsLoRA: alpha / sqrt(rank))."""

    rank: Count
    alpha: Positive
    dropout: Fraction
    num_layers: int  # the last so many decoder layers; -1: all
    keys: Annotated[list[str], Field(min_length=1)]  # suffixes of module names, e.g. q_proj
    rslora: bool = False
    dora: bool = False
    plus_ratio: Positive = 1.0  # LoRA+: learning rate of lora_b over that of lora_a
    neftune: Annotated[float, Field(ge=0)] = 0.0  # noise alpha on the embeddings (Jain et al. 2023); 0: none
    vision: bool = False  # also the linear layers of the vision tower
    merger: bool = False  # also the mergers between the vision tower and the language model

    @model_validator(mode="after")
    def _depth(self) -> Lora:
        if self.num_layers < 1 and self.num_layers != -1:
            raise ValueError(tr("num_layers is a count of decoder layers, or -1 for all"))
        return self

    @property
    def below(self) -> bool:
        """Whether something below the decoder layers is trained."""
        return self.vision or self.merger

    @property
    def restless(self) -> list[str]:
        """The settings that change what is below the trained layers at every step, so that no cache can hold it."""
        return [name for name in ("neftune", "vision", "merger") if getattr(self, name)]

    def chosen(self, modules: Sequence[str], depth: int) -> list[str]:
        """Those of ``modules``, the full names in the chosen ones of ``depth`` decoder layers, that ``keys`` name.

        A UserError where the model has fewer layers, or a key names no module.
        """
        if self.num_layers > depth:
            raise UserError(
                tr(
                    "lora.num_layers: {count}, but the model has {depth} decoder layers; set it to at most {depth}",
                    count=self.num_layers,
                    depth=depth,
                )
            )
        named = {key: [name for name in modules if f".{name}".endswith(f".{key}")] for key in self.keys}
        there = ", ".join(sorted({name.partition(".layers.")[2].partition(".")[2] for name in modules}))
        raise_all(
            [
                tr("lora.keys: no module {key}; choose from {names}", key=key, names=there)
                for key, found in named.items()
                if not found
            ],
            "train.yaml",
        )
        return [name for name in modules if any(name in found for found in named.values())]

    def lowest(self, depth: int) -> int:
        """Index of the lowest of ``depth`` decoder layers that gets adapters."""
        return 0 if self.num_layers == -1 else max(0, depth - self.num_layers)

    def frozen(self, depth: int) -> int:
        """How many of ``depth`` decoder layers no gradient reaches."""
        return 0 if self.below else self.lowest(depth)


class Priority(Strict):
    """How often a dimension is drawn, and what its right and wrong answers weigh."""

    weight: Annotated[float, Field(ge=0)]
    reward: Positive
    penalty: Positive


class Objective(Strict):
    """What the loss rewards and punishes."""

    priorities: dict[Dimension, Priority]
    share: Literal["examples", "loss"]
    negatives: Literal["auto", "off", "unlikelihood", "apo", "kto", "dpo", "orpo"]
    beta: Positive = 0.1  # of the preference terms
    gamma: Annotated[float, Field(ge=0)] = 0.2  # weight of the preference term against the likelihood term

    @model_validator(mode="after")
    def _complete(self) -> Objective:
        if set(self.priorities) != {"accuracy", "warmth", "vision"}:
            raise ValueError(tr("priorities needs accuracy, warmth and vision"))
        if sum(p.weight for p in self.priorities.values()) <= 0:
            raise ValueError(tr("at least one priority needs a weight above 0"))
        return self


class Select(Strict):
    """Which checkpoint becomes the run's adapters."""

    by: Literal["val_loss", "last"]
    patience: Count | None  # stop after so many validations without a better one; null: never


class TrainConfig(Strict):
    """train.yaml: dataset -> adapters."""

    base_model: str  # path, Hub id in the local cache or LM Studio key
    seed: Seed
    iters: Count  # optimizer steps
    batch_size: Count  # examples per step, over all machines
    grad_accumulation_steps: Count  # micro-batches a step is cut into: less memory, the same result
    optimizer: Optimizer
    lr_schedule: Annotated[Cosine | Constant, Field(discriminator="name")]
    lora: Lora
    objective: Objective
    steps_per_report: Count
    steps_per_eval: Count
    save_every: Count
    select: Select
    trunk_cache: Literal["auto", "on", "off"]
    grad_checkpoint: Literal["auto", "on", "off"]
    keep_last: Count = 10  # numbered checkpoints kept; the best one always is

    @model_validator(mode="after")
    def _divisible(self) -> TrainConfig:
        if self.batch_size % self.grad_accumulation_steps:
            raise ValueError(tr("batch_size must be a multiple of grad_accumulation_steps"))
        return self

    @model_validator(mode="after")
    def _enough_for_kto(self) -> TrainConfig:
        micro = self.batch_size // self.grad_accumulation_steps
        if self.objective.negatives == "kto" and micro < KTO_MICRO_BATCH:
            raise ValueError(
                tr(
                    "objective.negatives: kto needs {least} examples in a micro-batch, it has {micro}; "
                    "raise batch_size, or set negatives to auto",
                    least=KTO_MICRO_BATCH,
                    micro=micro,
                )
            )
        return self

    @model_validator(mode="after")
    def _cacheable(self) -> TrainConfig:
        if self.trunk_cache == "on" and self.lora.restless:  # a cache of what is different at every step
            raise ValueError(
                tr(
                    "trunk_cache: on, but lora.{name} changes the trunk at every step; set it to auto or off",
                    name=self.lora.restless[0],
                )
            )
        return self


class Gate(Strict):
    """What the tuned model must reach before it is deployed.

    Per dimension: the lower end of the 95 % interval of tuned minus baseline, in points of the score 0..1. Negative:
    not worse by more than that; 0: better beyond chance.
    """

    accuracy: float
    warmth: float
    vision: float
    superior: Annotated[int, Field(ge=0, le=3)]  # so many dimensions must be better beyond chance
    pass_rate: dict[CheckKind, Annotated[float, Field(ge=0, le=1)]]  # least share the tuned model passes


class EvalConfig(Strict):
    """eval.yaml: adapters + dataset -> evaluation."""

    bench: str | None  # folder with the recommended cases, see data/bench; null: none are asked
    max_tokens: Count  # generated per answer
    batch_size: Count
    max_items: Count | None  # of the test split, drawn per dimension; null: all
    seed: Seed
    gate: Gate


class DeployConfig(Strict):
    """deploy.yaml: adapters -> a folder LM Studio loads."""

    publisher: FolderName  # first of the two folder levels LM Studio knows; not lmstudio-community, which is its own
    name: FolderName  # second level; a new one for each version, since the app keeps settings by name
    precision: Literal[
        "keep", "bf16", "8bit", "4bit", "auto"
    ]  # of the adapted matrices; auto: smallest that keeps 95 %
    system_prompt: str  # default in the chat template: "training" as trained, "" none, else the training's own text
    home: str  # LM Studio's home; "": found by LM Studio's rules

    @model_validator(mode="after")
    def _own_publisher(self) -> DeployConfig:
        if self.publisher.lower() in RESERVED:
            raise ValueError(tr("publisher {name} is not yours; choose a name of your own", name=self.publisher))
        return self
