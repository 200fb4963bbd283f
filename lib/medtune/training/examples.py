"""What a run learns from: the records of a data set, encoded and weighed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from medtune.data import encodings
from medtune.dataset import Dataset, again
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model.base import Base
from medtune.model.renderer import Example, Renderer
from medtune.progress import progress
from medtune.records import Record
from medtune.schemas import TrainConfig
from medtune.training import sampler, weighting
from medtune.training.cluster import Cluster
from medtune.training.priorities import Priorities, priorities
from medtune.training.weighting import Lesson, Lessons

EncodedRecord = tuple[Record, Example]


class RecordKind(NamedTuple):
    """What may make a difference to a chat template."""

    dim: str
    label: int
    pictured: bool
    turns: int
    thinks: bool

    @classmethod
    def of(cls, record: Record) -> RecordKind:
        """The kind of a record; from some turns on more make no other."""
        thinks = any("<think>" in message.content for message in record.messages)
        return cls(record.dim, record.label, bool(record.images), min(len(record.messages), 6), thinks)


@dataclass(frozen=True)
class Material:
    """What is learned from, what is validated on, and the priorities both were weighed by."""

    train: Lessons
    valid: list[Lesson]
    priorities: Priorities
    kinds: dict[RecordKind, EncodedRecord]  # of each kind of record the first

    def order(self, config: TrainConfig) -> sampler.Order:
        """Which training lessons each step draws."""
        drawn = self.train.dims, self.train.lengths, self.priorities.draw
        return sampler.order(*drawn, config.iters, config.batch_size, config.seed)

    def share(self, order: sampler.Order, cluster: Cluster) -> tuple[list[int], list[int]]:
        """Indices of the training and validation lessons that this machine works on."""
        if cluster.size == 1:  # all: another run draws others from the same store
            return list(range(len(self.train.items))), list(range(len(self.valid)))
        drawn = {index for chosen in order for index in cluster.share(chosen)}
        partners = {partner for index in drawn if (partner := self.train.items[index].partner) is not None}
        return sorted(drawn | partners), cluster.share(range(len(self.valid)))

    def examples(self, mine: tuple[list[int], list[int]]) -> list[Example]:
        """The examples of a share."""
        return [self.train.items[index].example for index in mine[0]] + [self.valid[index].example for index in mine[1]]


def gather(dataset: Dataset, renderer: Renderer, config: TrainConfig) -> Material:
    """Encode and weigh the records of train and valid, counted with the base model's own tokenizer and processor."""
    _check_same_files(dataset, renderer.base)
    records = {split: dataset.split(split) for split in ("train", "valid")}
    desirable = Counter(record.dim for record in records["train"] if record.label == 1)
    if not desirable:
        raise UserError(tr("{data}: no desirable answer to learn from; add records with label 1", data=dataset.root))
    shares = priorities(config.objective, desirable)
    if not any(record.label == 1 and record.dim in shares.draw for record in records["valid"]):
        raise UserError(
            tr(
                "{data}: nothing to validate on; raise valid_fraction in data.yaml, then {again}",
                data=dataset.root,
                again=again(dataset.root),
            )
        )
    with progress(tr("tokens"), sum(map(len, records.values())), "rec") as bar:
        chosen: dict[str, list[EncodedRecord]] = {split: [] for split in records}
        kinds: dict[RecordKind, EncodedRecord] = {}
        for done, (split, record, example) in enumerate(_encoded(dataset, records, renderer), 1):
            bar.update(done, "")
            if record.dim in shares.draw:
                chosen[split].append((record, example))
                kinds.setdefault(RecordKind.of(record), (record, example))

    def encode(record: Record) -> Example:
        return renderer.encode(record, dataset.root)

    train = weighting.train(chosen["train"], encode, shares, config.objective, config.seed)
    valid = weighting.valid(chosen["valid"])
    total = len(records["train"])
    train = replace(train, unused=train.unused + total - len(chosen["train"]))
    if train.unused:
        print(tr("{n} of {total} training records have no part in this objective", n=train.unused, total=total))
    return Material(train, valid, shares, kinds)


def _encoded(
    dataset: Dataset, records: dict[str, list[Record]], renderer: Renderer
) -> Iterator[tuple[str, Record, Example]]:
    for split, part in records.items():
        for record, example in zip(part, encodings.examples(dataset, split, part, renderer), strict=True):
            yield split, record, example


def _check_same_files(dataset: Dataset, base: Base) -> None:
    """Refuse a data set counted with another tokenizer or image processor than the base model's."""
    counted = dataset.manifest.results
    for part, now in (("tokenizer", base.tokenizer_hash), ("processor", base.processor_hash)):
        if counted[part]["hash"] != now:
            raise UserError(
                tr(
                    "{data}: its tokens were counted with another {part} than that of {base}; set data.yaml's "
                    "tokenizer to {base}, then {again}",
                    data=dataset.root,
                    again=again(dataset.root),
                    part=part,
                    base=base.name,
                )
            )
