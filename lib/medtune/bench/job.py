"""The job: one model and one data set on disk, in the forms of all contenders, the same rows in the same order.

model/      config, tokenizer, weights
dataset/    our form: train, valid and test with their manifest, and the images
text/       our form, the rows without an image
rows/       mlx-vlm's form of dataset/: train.jsonl, valid.jsonl
rows-text/  mlx-lm's form of text/
adapters/   where every contender starts from
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from medtune import files, receipt
from medtune.bench import model, rows
from medtune.bench.model import ModelSize
from medtune.bench.rows import Mix
from medtune.data import manifest
from medtune.data.encodings import TokenCount
from medtune.data.preparation import Entry
from medtune.model.base import Base
from medtune.records import IMAGE_MARKER, SPLITS, Record
from medtune.run import WEIGHTS
from medtune.schemas import DataConfig, TrainConfig

RowKind = Literal["all", "text"]
FORMS: dict[RowKind, tuple[str, str]] = {"all": ("dataset", "rows"), "text": ("text", "rows-text")}
FILE = "job.json"


@dataclass(frozen=True)
class Work:
    """What is trained: LoRA on q, k, v and o of the last ``adapted`` layers, for some epochs."""

    epochs: int = 3
    batch_size: int = 2
    adapted: int = 4
    rank: int = 64
    alpha: float = 128.0
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """A job in ``folder``; ``lengths`` are the tokens of the train rows, those with an image in ``pictured``."""

    folder: Path
    size: ModelSize
    mix: Mix
    work: Work
    lengths: tuple[int, ...]
    pictured: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job that was written to ``folder``."""
        raw = files.read_json(folder / FILE)
        parts = {"size": ModelSize(**raw["size"]), "mix": Mix(**raw["mix"]), "work": Work(**raw["work"])}
        return cls(folder, **parts, lengths=tuple(raw["lengths"]), pictured=tuple(raw["pictured"]))

    @property
    def model(self) -> Path:
        """The base model's folder."""
        return self.folder / "model"

    def data(self, kind: RowKind) -> Path:
        """The data set in our form."""
        return self.folder / FORMS[kind][0]

    def rows(self, kind: RowKind) -> Path:
        """The data set in the others' form."""
        return self.folder / FORMS[kind][1]

    @property
    def adapters(self) -> Path:
        """The adapters every contender starts from."""
        return self.folder / "adapters"

    def numbers(self, kind: RowKind) -> list[int]:
        """Which train rows this kind has, in order."""
        pictured = set(self.pictured)
        return [i for i in range(len(self.lengths)) if kind == "all" or i not in pictured]

    def steps(self, kind: RowKind) -> int:
        """Optimizer steps of all epochs; text and image rows are never in one batch, an odd one is left out."""
        text, pictured = len(self.lengths) - len(self.pictured), len(self.pictured)
        size = self.work.batch_size
        return self.work.epochs * (text // size + (pictured // size if kind == "all" else 0))

    def order(self, kind: RowKind) -> list[list[int]]:
        """Which of its rows each step sees: mlx-vlm's own order, which the other contenders are given too."""
        from mlx_vlm.trainer.common.utils import iterate_batch_indices

        chosen, pictured = self.numbers(kind), set(self.pictured)
        stream = iterate_batch_indices(
            len(chosen),
            self.work.batch_size,
            length_key=lambda i: self.lengths[chosen[i]],
            group_key=lambda i: ("image",) if chosen[i] in pictured else (),
            train=True,
            seed=self.work.seed,
        )
        return [next(stream) for _ in range(self.steps(kind))]

    def tokens(self, kind: RowKind, order: Sequence[Sequence[int]]) -> list[int]:
        """Tokens of each step, without padding."""
        chosen = self.numbers(kind)
        return [sum(self.lengths[chosen[i]] for i in batch) for batch in order]

    @cached_property
    def settings(self) -> TrainConfig:
        """Our settings for the job: plain likelihood of every answer, the same optimizer, nothing clipped."""
        work = self.work
        priority = {"weight": 1.0, "reward": 1.0, "penalty": 1.0}
        steps = self.steps("all")
        return TrainConfig.model_validate(
            {
                "base_model": str(self.model),
                "seed": work.seed,
                "iters": steps,
                "batch_size": work.batch_size,
                "grad_accumulation_steps": 1,
                "optimizer": {
                    "name": "adamw",
                    "learning_rate": work.learning_rate,
                    "weight_decay": work.weight_decay,
                    "grad_clip": None,
                },
                "lr_schedule": {"name": "constant"},
                "lora": {
                    "rank": work.rank,
                    "alpha": work.alpha,
                    "dropout": 0.0,
                    "num_layers": work.adapted,
                    "keys": ["q_proj", "k_proj", "v_proj", "o_proj"],
                },
                "objective": {
                    "priorities": dict.fromkeys(("accuracy", "warmth", "vision"), priority),
                    "share": "examples",
                    "negatives": "off",
                },
                "steps_per_report": 1,
                "steps_per_eval": steps,
                "save_every": steps,
                "select": {"by": "last", "patience": None},
                "trunk_cache": "on",
                "grad_checkpoint": "off",
            }
        )


def write(folder: Path, size: ModelSize, mix: Mix, work: Work) -> Job:
    """Write the job; needs MLX."""
    folder = folder.resolve()  # mlx-vlm looks for an image beside its rows first
    base = Base.find(str(model.write(folder / "model", size)))
    lengths, pictured = _write_data(folder, base, mix)
    job = Job(folder, size, mix, work, tuple(lengths), tuple(pictured))
    _write_adapters(job, base)
    values = {"size": asdict(size), "mix": asdict(mix), "work": asdict(work)}
    files.write_json(folder / FILE, values | {"lengths": lengths, "pictured": pictured})
    return job


def _write_data(folder: Path, base: Base, mix: Mix) -> tuple[list[int], list[int]]:
    """All forms of the data set; returns the lengths of the train rows and the numbers of those with an image."""
    from medtune.model.renderer import Renderer

    renderer = Renderer(base)
    root = folder / FORMS["all"][0]

    def count_tokens(text: str) -> int:
        return len(renderer.tokenizer.encode(text, add_special_tokens=False))

    made: dict[str, list[Record]] = {
        split: list(rows.records(mix, split, count_tokens, root)) for split in ("train", "valid")
    }
    made["test"] = []
    counts: dict[str, TokenCount] = {}
    for record in made["train"] + made["valid"]:
        counts[record.id] = TokenCount.of(renderer.encode(record, root))
    for kind, (own, others) in FORMS.items():
        chosen = {
            split: [record for record in part if kind == "all" or not record.images] for split, part in made.items()
        }
        _write_dataset(folder / own, base, chosen, counts)
        for split in ("train", "valid"):
            files.write_jsonl(folder / others / f"{split}.jsonl", (_row(record, root) for record in chosen[split]))
    train = made["train"]
    return [counts[r.id].tokens for r in train], [number for number, r in enumerate(train) if r.images]


def _row(record: Record, root: Path) -> str:
    """A record as mlx-vlm and mlx-lm read it; both put images before the text of the turn."""
    messages = [{"role": m.role, "content": m.content.replace(IMAGE_MARKER, "")} for m in record.messages]
    images = [str(root / name) for name in record.images]
    return json.dumps({"messages": messages} | ({"images": images} if images else {}), ensure_ascii=False)


def _write_dataset(root: Path, base: Base, made: dict[str, list[Record]], counts: dict[str, TokenCount]) -> None:
    """Splits, in the order of their rows, and the part of a manifest that training reads."""
    settings = DataConfig(
        tokenizer=str(base.path),
        sources=[],
        system_prompt="",
        max_seq_length=max(count.tokens for count in counts.values()),
        max_image_edge=512,
        valid_fraction=0.0,
        test_fraction=0.0,
        seed=0,
        privacy="off",
        dedup="off",
    )
    path = root / receipt.MANIFEST
    path.unlink(missing_ok=True)  # of another job in the same folder
    with receipt.stage(path, settings, inputs={}) as done:
        for split in SPLITS:
            files.write_jsonl(root / f"{split}.jsonl", (record.to_json() for record in made[split]))
        done.results = {
            **manifest.encoded_with(base),
            "splits": {
                split: manifest.split_facts([_entry(record, counts[record.id]) for record in made[split]])
                for split in SPLITS
            },
            "max_tokens": settings.max_seq_length,
        }
        done.outputs = {f"{split}.jsonl": files.sha256(root / f"{split}.jsonl") for split in SPLITS}


def _entry(record: Record, count: TokenCount) -> Entry:
    """What a preparation remembers of a record."""
    return Entry(Path(), record.dim, record.label, bool(record.spans), record.license, "", count, 0)


def _write_adapters(job: Job, base: Base) -> None:
    import mlx.core as mx

    from medtune.model import adapters

    mx.random.seed(job.work.seed)
    loaded: Any = base.load()
    config = adapters.attach(loaded, job.settings.lora)
    job.adapters.mkdir(exist_ok=True)
    adapters.save(job.adapters, WEIGHTS, loaded, config)
