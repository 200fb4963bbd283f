"""What LM Studio would make of any model folder, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medtune import files
from medtune.deployment import folder
from medtune.deployment.proof import Fault, lint, sentences
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import tensors


@dataclass(frozen=True)
class Inspection:
    """A folder and every fault that was found in it."""

    path: Path
    problems: list[Fault]

    @classmethod
    def of(cls, path: Path) -> Inspection:
        """Look at the folder ``path``; one that is not there is a UserError."""
        if not path.is_dir():
            raise UserError(tr("{folder}: no such folder", folder=path))
        return cls(path, lint.problems(path))

    @property
    def lines(self) -> list[str]:
        """For the screen: what the folder is, and each fault with its effect."""
        unread = any(problem["fault"] in lint.UNREADABLE for problem in self.problems)
        facts = () if unread else _facts(self.path)
        return [str(self.path), *facts, *(f"  ✗ {_said(problem)}" for problem in self.problems)]

    @property
    def verdict(self) -> str:
        """One sentence: whether LM Studio loads it, or what keeps it from doing so."""
        if self.problems:
            first = _said(self.problems[0])
            return tr("✗ {n} problems; the first one decides: {problem}", n=len(self.problems), problem=first)
        name = f"{self.path.resolve().parent.name}/{self.path.resolve().name}"
        return tr("✓ LM Studio loads it as {name}: nothing found that speaks against it", name=name)


def _said(problem: Fault) -> str:
    return sentences.fault(problem, lint.SENTENCES)


def _facts(path: Path) -> Iterator[str]:
    if not (path / "config.json").exists():
        return
    config = files.read_json(path / "config.json")
    packing = config.get("quantization") or {}
    bits = tr("{bits} bits", bits=packing["bits"]) if "bits" in packing else tr("not quantised")
    vision = tr("with vision") if "vision_config" in config else tr("text only")
    yield f"  {config.get('model_type', '?')} · {bits} · {vision}"
    found = list(path.glob("model*.safetensors"))
    if found:
        with suppress(UserError):  # it stands among the problems
            weights = tensors.Weights.open(path)
            yield tr(
                "  {n} tensors in {files} files, {size}",
                n=len(weights.tensors),
                files=len(weights.shards),
                size=files.megabytes(weights.nbytes),
            )
    for name in folder.template_of(path):
        yield tr("  chat template in {name}", name=name)
