"""Strict YAML: one file, one typed schema, every problem named with its line and the nearest valid key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medtune.errors import UserError, raise_all


class Strict(BaseModel):
    """Base of every schema: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Loader(yaml.SafeLoader):
    """YAML in which only true and false are booleans: our settings say on and off."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))

Schema = TypeVar("Schema", bound=Strict)
Path_ = tuple[str | int, ...]  # a key's place: ("lora", "rank")


def load(schema: type[Schema], path: Path, overrides: Iterable[str] = ()) -> Schema:
    """Read ``path`` as ``schema`` with ``key.sub=value`` overrides; all problems are raised at once."""
    values, lines = _read(path)
    origins: dict[Path_, str] = {place: f"line {line}" for place, line in lines.items()}
    for override in overrides:
        place = _apply(values, override)
        origins[place] = f"--set {override}"
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise_all(_problems(error, schema, origins), str(path))
        raise


def _read(path: Path) -> tuple[dict[str, Any], dict[Path_, int]]:
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=_Loader)
        values = yaml.load(text, Loader=_Loader)
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
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values, dict(_lines(node, ()))


def _lines(node: yaml.Node | None, place: Path_) -> Iterable[tuple[Path_, int]]:
    """Yield the line (1-based) on which each key or item stands."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line + 1
            yield from _lines(value, (*place, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1
            yield from _lines(value, (*place, index))


def _apply(values: dict[str, Any], override: str) -> Path_:
    """Set ``a.b=value`` in place, the value read as YAML, and return its place."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"--set {override}: write it as key=value or key.sub=value")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not YAML") from None
    *parents, last = place = tuple(dotted.split("."))
    for key in parents:
        inner = values.get(key)
        # a branch that is missing or a leaf: let the schema name the problem, at this override
        values[key] = values = dict(inner) if isinstance(inner, dict) else {}
    values[last] = value
    return place


def _problems(error: ValidationError, schema: type[Strict], origins: dict[Path_, str]) -> list[str]:
    rows = []
    for item in error.errors():
        place = tuple(key for key in item["loc"] if not _is_union_tag(key, schema, origins))
        name = ".".join(str(key) for key in place)
        origin = next((origins[place[:n]] for n in range(len(place), 0, -1) if place[:n] in origins), "")
        rows.append((origin, f"{name}: {_sentence(item, place, schema)}"))
    rows = list(dict.fromkeys(rows))
    return [f"{origin}: {text}" if origin else text for origin, text in rows]


def _is_union_tag(key: str | int, schema: type[Strict], origins: dict[Path_, str]) -> bool:
    """Pydantic puts the name of a union's branch into the place; it is no key of the file."""
    if isinstance(key, int):
        return False
    known = {part for place in origins for part in place} | _all_keys(schema)
    return key not in known


def _all_keys(schema: type[BaseModel]) -> set[str]:
    keys = set(schema.model_fields)
    for field in schema.model_fields.values():
        for part in _models_in(field.annotation):
            keys |= _all_keys(part)
    return keys


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _sentence(item: Any, place: Path_, schema: type[Strict]) -> str:
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), _siblings(schema, place[:-1]), n=1, cutoff=0.5)
        return "no such key" + (f"; did you mean {near[0]}?" if near else "")
    if kind == "missing":
        return "missing key"
    if (
        isinstance(value, str)
        and kind in ("float_type", "int_type")
        and re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", value)
    ):
        return f"'{value}' is text to YAML; write {_as_yaml_float(value)}"
    shown = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return f"{shown}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _as_yaml_float(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    if "." not in mantissa and exponent:
        mantissa += ".0"
    return f"{mantissa}e{exponent if exponent.startswith(('-', '+')) else '+' + exponent}" if exponent else mantissa


def _siblings(schema: type[BaseModel], place: Path_) -> list[str]:
    """Valid keys beside the one at ``place``."""
    models = [schema]
    for key in place:
        if isinstance(key, str):
            fields = [model.model_fields[key] for model in models if key in model.model_fields]
            models = [inner for field in fields for inner in _models_in(field.annotation)]
    return [key for model in models for key in model.model_fields]
