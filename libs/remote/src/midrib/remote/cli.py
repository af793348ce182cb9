"""The command `midrib`. This package has the commands that talk to servers, midrib-server adds those of a server."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from midrib.remote._command.names import import_modules, parse_backbone
from midrib.remote._command.responsive import INTERRUPTED, ended_by_ctrl_c

# Read when torch is imported. Threads that spin while they wait take cores from threads that compute: beside a busy
# neighbour a batch of a vision transformer took 316 ms with spinning threads and 105 ms with sleeping ones.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_STDERR = 2

if TYPE_CHECKING:
    import typer

__all__ = ["application", "import_modules", "main", "parse_backbone", "run"]

_SERVER = "midrib.server.cli"


def main() -> None:
    """Run the command with all that is installed of it."""
    with ended_by_ctrl_c():
        if importlib.util.find_spec("typer") is None or importlib.util.find_spec("rich") is None:
            sys.exit("midrib: the command needs typer and rich: pip install 'midrib-remote[cli]'")
        app = application()
        if importlib.util.find_spec("midrib.server") is not None:
            importlib.import_module(_SERVER)  # adds its commands to the application
        else:
            from midrib.remote._command.absent import add_absent_commands

            add_absent_commands(app)
    run(app)


def application() -> typer.Typer:
    """Return the application, with the commands that have been added to it."""
    from midrib.remote._command.app import app

    return app


def run(app: typer.Typer) -> None:
    """Run an application; an error of use is one sentence on stderr and exit status 1."""
    with ended_by_ctrl_c():
        import typer

        command = typer.main.get_command(app)
    _open_standard_streams()
    try:
        command(color=False if os.environ.get("NO_COLOR") else None)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (LookupError, ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        typer.secho(f"midrib: {_sentence(error)}", fg=typer.colors.RED, err=True)
        sys.exit(1)


def _open_standard_streams() -> None:
    """Open the null device in place of the standard streams that the shell has closed, as by `midrib list >&-`.

    Otherwise the next files and sockets would get their numbers, and worker processes would start without them.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - open until the process ends


def _sentence(error: Exception) -> str:
    details = getattr(error, "errors", None)
    if callable(details):  # pydantic's: one line a field, without its links
        return "\n".join(
            f"{'.'.join(map(str, detail['loc'])) or 'settings'}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in details()
        )
    if isinstance(error, PermissionError) and getattr(error, "reason", None) == "UNAUTHENTICATED":
        return f"{error} (this command sends that of --token, or of MIDRIB_TOKEN)"
    return str(error)


if __name__ == "__main__":
    main()
