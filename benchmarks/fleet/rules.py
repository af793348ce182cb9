"""The numbers of the client's rules, which the results of the simulation depend on."""

from __future__ import annotations

from midrib.remote._connect import balance, dns, retries
from midrib.remote._stream import window


def rules() -> dict[str, float]:
    """Return the numeric constants of the modules whose rules are simulated, by module and name."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in (balance, dns, retries, window)
        for name, value in sorted(vars(module).items())
        if name.isupper() and isinstance(value, int | float)
    }
