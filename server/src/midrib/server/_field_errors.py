"""Wrong fields of a settings file or of a JSON body, as sentences in place of pydantic's texts."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ValidationError

from midrib.registry import nearest, suggestion

_MAX_SHOWN: Final = 60
_MAX_PLACE: Final = 100
# Of the models only the settings have more.
_MAX_NAMES: Final = 25
_KINDS: Final[Mapping[type, str]] = {dict: "an object", list: "a list", tuple: "a list", str: "a string"}
# The expected value, by the prefix of pydantic's type of an error.
_EXPECTED: Final[Mapping[str, str]] = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a string",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object",
}
_BOUNDS: Final[Mapping[str, tuple[str, str]]] = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
    "greater_than": ("more than", "gt"),
    "less_than": ("less than", "lt"),
}
_LENGTHS: Final[Mapping[str, tuple[str, str]]] = {
    "too_short": ("at least", "min_length"),
    "too_long": ("at most", "max_length"),
}


class FieldError(NamedTuple):
    """A wrong field.

    path: the names and indices that lead to the field; empty for an error of the whole input.
    sentence: names the place, and the received and the expected value.
    """

    path: tuple[str | int, ...]
    sentence: str

    @property
    def place(self) -> str:
        """The path in words, such as "backbones.0.name"."""
        return ".".join(map(str, self.path))[:_MAX_PLACE]


def field_errors(error: ValidationError, model: type[BaseModel], subject: str) -> list[FieldError]:
    """Return the errors of a model's fields. Unknown fields are first: a misspelt field is often a missing one too.

    model: the class that was validated.  subject: the name of the input in a sentence, such as "the body".
    """
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    return [_field_error(detail, model, subject) for detail in details]


def _field_error(detail: Any, model: type[BaseModel], subject: str) -> FieldError:
    path = tuple(detail["loc"])
    place = FieldError(path, "").place or subject
    kind, limits = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return FieldError(path, f"{place}: {message}" if path else message)
    if kind == "extra_forbidden":
        return FieldError(path, _unknown(str(path[-1]), place, _model_at(model, path[:-1])))
    if kind == "missing":
        return FieldError(path, f"{place} is missing: add it")
    if kind.startswith("model_"):
        names = ", ".join(_model_at(model, path).model_fields)
        return FieldError(path, f"{place} is {shown(detail['input'])}, expected an object with the fields {names}")
    return FieldError(path, f"{place} {_difference(kind, detail, limits)}")


def _difference(kind: str, detail: Any, limits: Mapping[str, Any]) -> str:
    """Return the received and the expected value of a field, as the rest of a sentence."""
    if kind in _LENGTHS:
        words, bound = _LENGTHS[kind]
        return f"has {limits.get('actual_length')} entries, expected {words} {limits[bound]}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"is {shown(detail['input'])}, expected {words} {limits[bound]}"
    expected = limits.get("expected") or _EXPECTED.get(kind.partition("_")[0]) or detail["msg"]
    return f"is {shown(detail['input'])}, expected {expected}"


def shown(value: object) -> str:
    """Return a value in words; of a list or an object the kind only, because it may be large."""
    if isinstance(value, str):
        return repr(value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "...")
    return next((words for kind, words in _KINDS.items() if isinstance(value, kind)), f"{value!r:.60}")


def _unknown(name: str, place: str, model: type[BaseModel]) -> str:
    names = list(model.model_fields)
    if len(names) > _MAX_NAMES and not nearest(name[:_MAX_PLACE], names):
        return f"{place} is unknown to this version: `midrib serve --print-config` shows all settings"
    return f"{place} is unknown: {suggestion(name[:_MAX_PLACE], names)}"


def _model_at(model: type[BaseModel], path: tuple[str | int, ...]) -> type[BaseModel]:
    """Return the model of the object at a path, such as the one of an entry of a list of objects."""
    for step in path:
        if isinstance(step, str) and step in model.model_fields:
            model = _first_model(model.model_fields[step].annotation) or model
    return model


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_first_model, typing.get_args(annotation))), None)
