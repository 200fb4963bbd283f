"""Strict YAML: one file, one typed schema, every problem named with its line and the nearest valid key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medtune import files
from medtune.config import errors as config_errors
from medtune.config.errors import KeyPath
from medtune.errors import UserError, raise_all
from medtune.i18n import tr


class Strict(BaseModel):
    """Base of every schema: unknown keys, silent conversions and floats that are no numbers are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """YAML in which only true and false are booleans, for our settings say on and off, and nothing is a date."""


LONGEST, MOST_VALUES, DEEPEST = 2**20, 10_000, 32  # bytes, values and levels of a config: ours have a tenth
_UNWANTED = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _UNWANTED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))

Schema = TypeVar("Schema", bound=Strict)


def load(schema: type[Schema], path: Path, overrides: Iterable[str] = ()) -> Schema:
    """Read ``path`` as ``schema`` with ``key.sub=value`` overrides; all problems are raised at once."""
    values, lines = _read(path)
    origins: dict[KeyPath, str] = {place: tr("line {line}", line=line) for place, line in lines.items()}
    for override in overrides:
        place = _apply(values, override)
        origins = {key: origin for key, origin in origins.items() if key[: len(place)] != place}
        origins[place] = f"--set {override}"
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise_all(config_errors.problems(error, schema, origins), str(path))
        raise


def _read(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The file's values, and the line (1-based) on which each key or item stands."""
    node, values = _parsed(path)
    if not isinstance(values, dict):
        found = config_errors.shown(values)
        raise UserError(tr("{path}: expected keys and values, found {found}", path=path, found=found))
    twice = [
        tr("line {again}: {name}: stands on line {line} too; keep one", again=again, name=name, line=line)
        for name, line, again in _twice(node)
    ]
    raise_all(twice, str(path))
    return values, dict(_lines(node, ()))


def _parsed(path: Path) -> tuple[yaml.Node | None, Any]:
    text = ""
    try:
        files.check_regular(path, LONGEST)
        text = path.read_text(encoding="utf-8")
        return _loaded(text)
    except FileNotFoundError:
        raise UserError(tr("{path}: no such config file; see configs/ for the profiles", path=path)) from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(tr("{path}: not UTF-8 (byte {byte}); save it as UTF-8", path=path, byte=error.start)) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(tr("{path}:{line}: not YAML: {fault}", path=path, line=line, fault=error.problem)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(tr("{path}:{line}: not YAML: {fault}", path=path, line=line, fault=error.reason)) from None
    except (ValueError, OverflowError) as error:  # a value that looks like a number and is none: 0x_
        raise UserError(tr("{path}: not YAML: {fault}", path=path, fault=error)) from None


def _loaded(text: str) -> tuple[yaml.Node | None, Any]:
    """The nodes and values of a text; a ValueError where aliases would unfold without end."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        size = _unfolded(node, {}, 0)
    except RecursionError:
        raise ValueError(tr("more than {most} levels deep, or within itself", most=DEEPEST)) from None
    if size > MOST_VALUES:
        raise ValueError(tr("anchors that unfold to more than {most} values", most=MOST_VALUES))
    try:
        return node, yaml.load(text, Loader=_Loader)
    except (LookupError, TypeError, AttributeError) as error:  # `!!int ''`, `!!bool maybe`
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _unfolded(node: yaml.Node | None, known: dict[int, int], depth: int) -> int:
    """How many values a node stands for, aliases counted wherever they stand; a RecursionError where it is too deep."""
    if depth > DEEPEST:
        raise RecursionError
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_unfolded(part, known, depth + 1) for part in inner)
    return known[id(node)]


def _lines(node: yaml.Node | None, place: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    """Yield each key's and item's place and line, in the order of the file."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line + 1
            yield from _lines(value, (*place, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1
            yield from _lines(value, (*place, index))


def _twice(node: yaml.Node | None) -> Iterator[tuple[str, int, int]]:
    """Yield (key, line, line again) where a mapping has a key twice: YAML would silently take the last."""
    first: dict[KeyPath, int] = {}
    twice: set[KeyPath] = set()
    for place, line in _lines(node, ()):
        if place not in first:
            first[place] = line
            continue
        twice.add(place)
        if place[:-1] not in twice:  # what is inside a key that stands twice is not said again
            yield ".".join(map(str, place)), first[place], line


def _apply(values: dict[str, Any], override: str) -> KeyPath:
    """Set ``a.b=value`` in place, the value read as YAML, and return the place of what was replaced."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(tr("--set {override}: write it as key=value or key.sub=value", override=override))
    try:
        _, value = _loaded(text)
    except (yaml.YAMLError, ValueError, OverflowError):
        raise UserError(tr("--set {override}: the value is not YAML", override=override)) from None
    keys = dotted.split(".")
    for depth, key in enumerate(keys[:-1], 1):
        if not isinstance(values.get(key), dict):  # missing or a leaf: the schema names the problem, at this override
            for inner in reversed(keys[depth:]):
                value = {inner: value}
            values[key] = value
            return tuple(keys[:depth])
        values[key] = values = dict(values[key])
    values[keys[-1]] = value
    return tuple(keys)
