"""What LM Studio would make of any model folder, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medtune import files
from medtune.deployment import folder
from medtune.deployment.proof import lint
from medtune.errors import UserError
from medtune.i18n import tr
from medtune.model import tensors


def report(path: Path) -> list[str]:
    """Lines for the screen: what the folder is, each fault with its effect, and a verdict."""
    if not path.is_dir():
        raise UserError(tr("{folder}: no such folder", folder=path))
    problems = lint.problems(path)
    return [str(path), *_facts(path), *(f"  ✗ {problem}" for problem in problems), _verdict(path, problems)]


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
        weights = tensors.Weights.open(path)
        yield tr("  {n} tensors in {files} files, {size}", n=len(weights.tensors), files=len(weights.shards),
                 size=files.megabytes(weights.nbytes))  # fmt: skip
    for name in folder.template_of(path):
        yield tr("  chat template in {name}", name=name)


def _verdict(path: Path, problems: list[lint.Problem]) -> str:
    if not problems:
        name = f"{path.parent.name}/{path.name}"
        return tr("✓ LM Studio loads it as {name}: nothing found that speaks against it", name=name)
    return tr("✗ {n} problems; the first one decides: {problem}", n=len(problems), problem=problems[0])
