"""Strict YAML: one file, one typed schema, every problem named with its line and the nearest valid key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medtune.errors import UserError, raise_all


class Strict(BaseModel):
    """Base of every schema: unknown keys, silent conversions and floats that are no numbers are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """YAML in which only true and false are booleans, for our settings say on and off, and nothing is a date."""


_UNWANTED = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _UNWANTED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))

Schema = TypeVar("Schema", bound=Strict)
Path_ = tuple[str | int, ...]  # a key's place: ("lora", "rank")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")  # also where it is text to YAML: 5e-6


def load(schema: type[Schema], path: Path, overrides: Iterable[str] = ()) -> Schema:
    """Read ``path`` as ``schema`` with ``key.sub=value`` overrides; all problems are raised at once."""
    values, lines = _read(path)
    origins: dict[Path_, str] = {place: f"line {line}" for place, line in lines.items()}
    for override in overrides:
        place = _apply(values, override)
        origins = {key: origin for key, origin in origins.items() if key[: len(place)] != place}
        origins[place] = f"--set {override}"
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise_all(_problems(error, schema, origins), str(path))
        raise


def _read(path: Path) -> tuple[dict[str, Any], dict[Path_, int]]:
    """The file's values, and the line (1-based) on which each key or item stands."""
    node, values = _parsed(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, found {type(values).__name__}")
    twice = [f"line {again}: {name}: stands on line {line} too; keep one" for name, line, again in _twice(node)]
    raise_all(twice, str(path))
    return values, dict(_lines(node, ()))


def _parsed(path: Path) -> tuple[yaml.Node | None, Any]:
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.compose(text, Loader=_Loader), yaml.load(text, Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; see configs/ for the profiles") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(f"{path}:{line}: not YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}:{line}: not YAML: {error.reason}") from None
    except ValueError as error:  # a value that looks like a number and is none: 0x_
        raise UserError(f"{path}: not YAML: {error}") from None


def _lines(node: yaml.Node | None, place: Path_) -> Iterator[tuple[Path_, int]]:
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
    first: dict[Path_, int] = {}
    twice: set[Path_] = set()
    for place, line in _lines(node, ()):
        if place not in first:
            first[place] = line
            continue
        twice.add(place)
        if place[:-1] not in twice:  # what is inside a key that stands twice is not said again
            yield ".".join(map(str, place)), first[place], line


def _apply(values: dict[str, Any], override: str) -> Path_:
    """Set ``a.b=value`` in place, the value read as YAML, and return the place of what was replaced."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"--set {override}: write it as key=value or key.sub=value")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"--set {override}: the value is not YAML") from None
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


@dataclass(frozen=True)
class _Spot:
    """Where a problem is: the key's place in the file, the branch of a union it is in, the valid keys beside it."""

    place: Path_
    branch: str
    beside: list[str]

    @classmethod
    def of(cls, schema: type[BaseModel], loc: Path_) -> _Spot:
        """Follow pydantic's ``loc``, which also has the names of branches, and [key] where a key itself is wrong."""
        place: list[str | int] = []
        beside: list[str] = []
        branch, models = "", [schema]
        for key in loc:
            chosen = [model for model in models if _is_branch(model, key)] if len(models) > 1 else []
            if chosen:
                branch, models = str(key), chosen
            elif key != "[key]":
                place.append(key)
                beside = [name for model in models for name in model.model_fields]
                if fields := [field for model in models for name, field in model.model_fields.items() if name == key]:
                    models = [inner for field in fields for inner in _models_in(field.annotation)]
        return cls(tuple(place), branch, beside)


def _is_branch(model: type[BaseModel], key: str | int) -> bool:
    """Whether ``key`` is what tells this model of a union from the others."""
    return any(key in get_args(field.annotation) for field in model.model_fields.values())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _problems(error: ValidationError, schema: type[Strict], origins: dict[Path_, str]) -> list[str]:
    rows = []
    for item in error.errors():
        spot = _Spot.of(schema, item["loc"])
        place = spot.place
        origin = next((origins[place[:n]] for n in range(len(place), 0, -1) if place[:n] in origins), "")
        rows.append(": ".join(filter(None, (origin, ".".join(map(str, place)), _sentence(item, spot)))))
    return list(dict.fromkeys(rows))


def _sentence(item: Any, spot: _Spot) -> str:
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        return _no_such_key(spot)
    if kind == "missing":
        return "missing key"
    if kind in ("float_type", "int_type") and (number := _as_yaml(value, whole=kind == "int_type")):
        return f"{value!r} is text to YAML; write {number}" if isinstance(value, str) else f"{value}: write {number}"
    said = str(item["ctx"]["error"]) if kind == "value_error" else f"{item['msg'][0].lower()}{item['msg'][1:]}"
    if isinstance(value, (str, int, float, bool, type(None))):
        return f"{value!r}: {said}"
    return said if kind == "value_error" else f"{type(value).__name__}: {said}"  # a rule about several keys names them


def _no_such_key(spot: _Spot) -> str:
    near = difflib.get_close_matches(str(spot.place[-1]), spot.beside, n=1, cutoff=0.5)
    said = f"{spot.branch} has no such key" if spot.branch else "no such key"
    return said + (f"; did you mean {near[0]}?" if near else "")


def _as_yaml(value: Any, whole: bool) -> str:
    """How YAML and the schema take ``value`` for the number it is meant to be; "" where it is none."""
    if not isinstance(value, (str, float)) or not NUMBER.fullmatch(str(value)):
        return ""
    if whole:
        return str(int(float(value))) if float(value).is_integer() else ""
    mantissa, _, exponent = str(value).lower().partition("e")
    if not exponent:
        return mantissa
    return f"{mantissa}{'' if '.' in mantissa else '.0'}e{'' if exponent[0] in '-+' else '+'}{exponent}"
