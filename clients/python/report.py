"""The output of a conformance program: one line a check, "ok NAME" or "not ok NAME - WHY"."""

# ruff: noqa: T201 - a program that prints

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Check(NamedTuple):
    """A name, what to call, and what it must return."""

    name: str
    call: Callable[[], object]
    want: object


def report(checks: Iterable[Check]) -> bool:
    """Run and print every check; whether all passed."""
    passed = True
    for check in checks:
        why = _failure(check)
        print(f"not ok {check.name} - {why}" if why else f"ok {check.name}", flush=True)
        passed = passed and not why
    return passed


def _failure(check: Check) -> str:
    try:
        got = check.call()
    except Exception as error:  # noqa: BLE001 - whatever it is, the check has failed
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    return "" if got == check.want else f"got {got!r}, expected {check.want!r}"
