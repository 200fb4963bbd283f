"""What is wrong with a config, in the person's language: one short sentence for each kind of error pydantic finds."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from medtune.i18n import Words, say, tr

KeyPath = tuple[str | int, ...]  # a key's place: ("lora", "rank")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")  # also where it is text to YAML: 5e-6
SENTENCES: dict[str, Words] = {  # by pydantic's name of the kind; {name} is filled from the error's context
    "bool_type": {"en": "must be true or false", "zh": "须为 true 或 false"},
    "dict_type": {"en": "must be keys and values", "zh": "须为键和值"},
    "finite_number": {"en": "must be a finite number", "zh": "须为有限的数"},
    "float_type": {"en": "must be a number", "zh": "须为数"},
    "greater_than": {"en": "must be greater than {gt}", "zh": "须大于 {gt}"},
    "greater_than_equal": {"en": "must be at least {ge}", "zh": "须不小于 {ge}"},
    "int_type": {"en": "must be a whole number", "zh": "须为整数"},
    "invalid_key": {"en": "each key must be text", "zh": "每个键都须为文本"},
    "less_than": {"en": "must be less than {lt}", "zh": "须小于 {lt}"},
    "less_than_equal": {"en": "must be at most {le}", "zh": "须不大于 {le}"},
    "list_type": {"en": "must be a list", "zh": "须为列表"},
    "literal_error": {"en": "must be one of: {expected}", "zh": "须为其中之一：{expected}"},
    "missing": {"en": "missing key", "zh": "缺少此键"},
    "model_attributes_type": {"en": "must be keys and values", "zh": "须为键和值"},
    "model_type": {"en": "must be keys and values", "zh": "须为键和值"},
    "string_type": {"en": "must be text", "zh": "须为文本"},
    "string_unicode": {"en": "must be text", "zh": "须为文本"},
    "too_short": {"en": "must have at least {min_length} of them", "zh": "至少须有 {min_length} 个"},
    "union_tag_invalid": {
        "en": "{discriminator} must be one of: {expected_tags}",
        "zh": "{discriminator} 须为其中之一：{expected_tags}",
    },
    "union_tag_not_found": {"en": "{discriminator} is missing", "zh": "缺少 {discriminator}"},
}
ABOUT_ITS_KEYS = ("missing", "invalid_key", "too_short", "union_tag_invalid", "union_tag_not_found")  # shown without it


def problems(error: ValidationError, schema: type[BaseModel], origins: Mapping[KeyPath, str]) -> list[str]:
    """``origin: key: sentence`` for each of the error's items; ``origins`` says which line or override set a key."""
    rows = []
    for item in error.errors():
        spot = _Spot.of(schema, item["loc"])
        place = spot.place
        origin = next((origins[place[:n]] for n in range(len(place), 0, -1) if place[:n] in origins), "")
        rows.append(": ".join(filter(None, (origin, ".".join(map(str, place)), _sentence(item, spot)))))
    return list(dict.fromkeys(rows))


def shown(value: Any) -> str:
    """A value as YAML has it, of a list or mapping its kind."""
    if isinstance(value, dict):
        return tr("keys and values")
    if isinstance(value, (list, tuple, set)):
        return tr("a list")
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The schemas that a field of this type may hold, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


@dataclass(frozen=True)
class _Spot:
    """Where a problem is: the key's place in the file, the branch of a union it is in, the valid keys beside it."""

    place: KeyPath
    branch: str
    beside: list[str]

    @classmethod
    def of(cls, schema: type[BaseModel], loc: KeyPath) -> _Spot:
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
                    models = [inner for field in fields for inner in models_in(field.annotation)]
        return cls(tuple(place), branch, beside)


def _is_branch(model: type[BaseModel], key: str | int) -> bool:
    """Whether ``key`` is what tells this model of a union from the others."""
    return any(key in get_args(field.annotation) for field in model.model_fields.values())


def _sentence(item: Any, spot: _Spot) -> str:
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        return _no_such_key(spot)
    if kind in ("float_type", "int_type") and (number := _as_yaml(value, whole=kind == "int_type")):
        if isinstance(value, str):
            return tr("{value} is text to YAML; write {number}", value=repr(value), number=number)
        return tr("{value}: write {number}", value=value, number=number)
    rule = kind == "value_error" and isinstance(value, dict)  # about several keys, which it names
    return _said(kind, item) if rule or kind in ABOUT_ITS_KEYS else f"{shown(value)}: {_said(kind, item)}"


def _said(kind: str, item: Any) -> str:
    """The sentence of this kind; what a validator of ours raised is one already."""
    context = item.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind not in SENTENCES:
        return item["msg"]
    return say(SENTENCES[kind]).format(**{name: _choices(text) for name, text in context.items()})


def _choices(text: Any) -> str:
    """Without quotes and the last "or": pydantic's ``'a', 'b' or 'c'``."""
    return ", ".join(re.findall(r"'([^']*)'", str(text))) or str(text)


def _no_such_key(spot: _Spot) -> str:
    near = difflib.get_close_matches(str(spot.place[-1]), spot.beside, n=1, cutoff=0.5)
    said = tr("{branch} has no such key", branch=spot.branch) if spot.branch else tr("no such key")
    return said + (tr("; did you mean {name}?", name=near[0]) if near else "")


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
