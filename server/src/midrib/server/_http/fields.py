"""The fields of a JSON body: what all bodies share, and their errors."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from midrib.wire import InvalidInputError

# More would only be unknown ones, and each costs an error.
_MAX_FIELDS = 64
_MAX_QUOTED = 100

FieldsT = TypeVar("FieldsT", bound="Fields")


class Fields(BaseModel):
    """A JSON object. An unknown field is an error, so that a misspelt one is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def read_fields(kind: type[FieldsT], value: Any) -> FieldsT:
    """Return a body of this kind. A field that is null is absent.

    Raises InvalidInputError for a value that is not an object of these fields.
    """
    if isinstance(value, dict):
        if len(value) > _MAX_FIELDS:
            raise InvalidInputError(f"the body has {len(value)} fields, expected at most {_MAX_FIELDS}")
        value = {name: field for name, field in value.items() if field is not None}
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:_MAX_QUOTED]
        raise InvalidInputError(f"{place or 'the body'}: {first['msg']}", field=place or None) from error
