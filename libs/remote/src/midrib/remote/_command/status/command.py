"""The command `midrib status`. It imports its modules when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from midrib.remote._command.options import Access, Certificate, Json, Roots, Timeout, Token


def status(
    address: Annotated[
        str, typer.Argument(help="The server's HTTP address: host:port, http://host:port or https://host:port.")
    ] = "127.0.0.1:8080",
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Update the display until Ctrl-C; with --json, print a line per update.")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds over which rates are measured.")] = 1.0,
    token: Token = None,
    roots: Roots = None,
    certificate: Certificate = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Show a server's backbones, queues, rows per second, memory, workers and tenants."""
    from midrib.remote._command.status.metrics import MetricsReader
    from midrib.remote._command.status.show import show_once, watch_status

    reader = MetricsReader(address, Access(token, roots, certificate, timeout))
    if watch:
        watch_status(reader, interval, as_json=as_json)
    else:
        show_once(reader, interval, as_json=as_json)
