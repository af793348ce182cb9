"""Checks of the arguments of clients: a wrong one fails the call that passed it, at once."""

from __future__ import annotations

import operator
from typing import Any, Final

import numpy as np

from midrib.wire import InvalidInputError, code_from_dtype

# A year: threads and event loops cannot wait for arbitrarily long.
MAX_SECONDS: Final = 365 * 86400.0


def checked_seconds(name: str, value: Any) -> float:
    """Return a duration in seconds. Raises InvalidInputError unless it is above 0 and at most a year."""
    if not isinstance(value, float | int | np.floating | np.integer) or not 0 < value <= MAX_SECONDS or value is True:
        raise InvalidInputError(f"{name} is {value!r:.40}, expected seconds above 0 and at most {MAX_SECONDS:.0f}")
    return float(value)


def checked_count(name: str, value: Any, most: int) -> int:
    """Return a number. Raises InvalidInputError unless it is an integer of 1 to `most`."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if isinstance(value, bool) or not 1 <= count <= most:
        raise InvalidInputError(f"{name} is {value!r:.40}, expected an integer of 1 to {most}")
    return count


def checked_text(name: str, value: Any) -> str:
    """Return a text that can be sent. Raises InvalidInputError for another type, and for text that is not Unicode."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{name} is {value!r:.40}, expected a string, got a {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{name} is {value!r:.40}, which is not valid Unicode at character {error.start}"
        ) from None
    return value


def checked_dtype(dtype: Any) -> str:
    """Return the name of an element type, given as a name or a type of numpy or torch.

    Raises InvalidInputError for one that cannot be sent.
    """
    name = dtype if isinstance(dtype, str) else str(getattr(dtype, "__name__", dtype)).removeprefix("torch.")
    code_from_dtype(checked_text("dtype", name))
    return str(np.dtype(name).name)


def checked_token(token: Any) -> str:
    """Return a bearer token. Raises InvalidInputError, without showing it, if an HTTP header cannot carry it."""
    if not isinstance(token, str):
        raise InvalidInputError(f"token is a {type(token).__name__}, expected a string: decode it")
    if not (token.isascii() and token.isprintable()) or token != token.strip():
        raise InvalidInputError(
            "the token has white space around it, a line break, or a character that is not ASCII: was it read from a "
            "file? Pass token.strip()"
        )
    return token
