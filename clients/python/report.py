"""Report the checks of a conformance program, one line each: "ok NAME" or "not ok NAME - WHY"."""

# ruff: noqa: T201 - a program that prints

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Check(NamedTuple):
    """A name, the function to call, and the value that it must return."""

    name: str
    call: Callable[[], object]
    want: object


def report(checks: Iterable[Check]) -> bool:
    """Run and print every check, and return whether all passed."""
    passed = True
    for check in checks:
        why = _failure(check)
        print(f"not ok {check.name} - {why}" if why else f"ok {check.name}", flush=True)
        passed = passed and not why
    return passed


def _failure(check: Check) -> str:
    try:
        got = check.call()
    except Exception as error:  # noqa: BLE001 - any exception fails the check
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    return "" if got == check.want else f"got {got!r}, expected {check.want!r}"
