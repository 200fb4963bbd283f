"""What both models are asked: prompts of the test split and the recommended cases, with the checks of their answers."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from medtune import checks, files
from medtune.data import sources
from medtune.data.sources import Row
from medtune.dataset import Dataset, again
from medtune.errors import UserError, raise_all
from medtune.i18n import tr
from medtune.images import ImageError, bytes_of, upright_rgb
from medtune.records import DIMENSIONS, IMAGE_MARKER, Check, Dimension, Message, Record

BENCH = "recommended.jsonl"


class BenchCase(Record):
    """One line of the bench: a record whose last turn is the reference answer."""

    expect: str = ""  # for people: what a good answer has

    def problems(self, folder: Path) -> list[str]:
        """What keeps it from being asked: turns that are no question, images of ``folder`` that cannot be shown."""
        problems = []
        if [turn.role for turn in self.messages[-2:]] != ["user", "assistant"]:
            problems.append(tr("messages must end with the user's question and the reference answer of the assistant"))
        places = sum(turn.content.count(IMAGE_MARKER) for turn in self.messages if turn.role == "user")
        if places != len(self.images):
            problems.append(tr("{places} <image> markers for {images} images", places=places, images=len(self.images)))
        return problems + [f"{name}: {fault}" for name in self.images if (fault := _unseen(folder / name))]


@dataclass(frozen=True)
class Item:
    """One prompt and how its answers are judged."""

    id: str
    split: Literal["test", "recommended"]
    dim: Dimension
    prompt: tuple[Message, ...]
    images: tuple[Path, ...]
    reference: str
    checks: tuple[Check, ...]
    cluster: str
    expect: str = ""  # for people: what a good answer has

    @property
    def question(self) -> str:
        """The last turn of the prompt."""
        return self.prompt[-1].content

    @cached_property
    def prompt_hash(self) -> str:
        """Hash of what a model sees: roles, texts and the bytes of the images."""
        turns = [[message.role, message.content] for message in self.prompt]
        return files.hash_of([turns, [files.sha256(path) for path in self.images]])


def of_test(dataset: Dataset, most: int | None, seed: int) -> list[Item]:
    """Desirable records of the test split, each prompt once, at most ``most`` per dimension drawn by ``seed``."""
    unique = {(r.prompt, r.images): r for r in reversed(dataset.split("test")) if r.label == 1}
    records = sorted(unique.values(), key=lambda record: _lot(seed, record.id))
    drawn = [record for dim in DIMENSIONS for record in [r for r in records if r.dim == dim][:most]]
    if not drawn:
        raise UserError(
            tr(
                "{data}: no test records; raise test_fraction in data.yaml, then {again}",
                data=dataset.root,
                again=again(dataset.root),
            )
        )
    return [_item(record, dataset.root, "test") for record in drawn]


def of_bench(folder: Path, system_prompt: str) -> list[Item]:
    """The recommended cases of ``folder``, asked under the system prompt of the training."""
    path = folder / BENCH
    if not path.exists():
        raise UserError(tr("{path}: no such file; set bench in eval.yaml to the folder that has it", path=path))
    files.check_regular(path)
    problems: list[str] = []
    items: list[Item] = []
    for row in sources.rows(path) if path.read_bytes().strip() else ():  # an empty file: no cases are wanted
        case, found = _case(row, folder)
        problems += [tr("line {line}: {problem}", line=row.line, problem=problem) for problem in found]
        if case and not found:
            items.append(_item(case, folder, "recommended", case.expect, system_prompt))
    raise_all(problems, str(path))
    return items


def check_checks(items: Iterable[Item]) -> None:
    """Raise one UserError naming every check that no answer could satisfy because it is written wrongly."""
    problems = {
        f"{item.id}: {problem}": None for item in items for check in item.checks for problem in checks.problems(check)
    }
    raise_all(problems, tr("checks"))


def _case(row: Row, folder: Path) -> tuple[BenchCase | None, list[str]]:
    """The case of one row and all that is wrong with it; None where it is none."""
    if row.fault:
        return None, [tr("not JSON ({fault})", fault=row.fault)]
    if not isinstance(row.value, dict):
        return None, [tr("not a JSON object")]
    try:
        case = BenchCase.model_validate(row.value)
    except ValidationError as error:
        return None, [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return case, case.problems(folder)


def _unseen(path: Path) -> str:
    """Why nobody can see the image; "" where one can."""
    try:
        upright_rgb(bytes_of(path), sys.maxsize)
    except ImageError as error:
        return tr("not an image one can open ({error})", error=error)
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        return tr("no such image ({error})", error=getattr(error, "strerror", None) or error)
    return ""


def _lot(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _item(
    record: Record, root: Path, split: Literal["test", "recommended"], expect: str = "", system_prompt: str = ""
) -> Item:
    prompt: Sequence[Message] = record.prompt
    if system_prompt and prompt[0].role != "system":
        prompt = (Message(role="system", content=system_prompt), *prompt)
    return Item(
        id=record.id,
        split=split,
        dim=record.dim,
        prompt=tuple(prompt),
        images=tuple(root / name for name in record.images),
        reference=record.answer,
        # without checks of its own an item is judged by its likeness to the reference
        checks=record.checks or (Check(kind="overlap", args={"reference": record.answer}),),
        cluster=record.cluster or record.id,
        expect=expect,
    )
