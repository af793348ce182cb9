"""Options that several commands have."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from midrib.remote._clients.async_client import AsyncClient
    from midrib.remote._clients.client import Client

# grpc is imported in the functions that connect, because a list of this process's backbones needs no connection.

# The groups of commands in the help.
USE: Final = "Use backbones"
MANAGE: Final = "Manage a running server"
START: Final = "Start a server"


def _print_version(value: bool) -> None:
    """Print the version, and raise typer.Exit to end the command."""
    number: str | None = None
    if value:
        with contextlib.suppress(PackageNotFoundError):
            number = version("midrib-remote")  # None for a checkout, which has metadata without a version
        typer.echo(f"midrib {number or 'of a checkout, not installed as a wheel'}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")]
Token = Annotated[str | None, typer.Option(envvar="MIDRIB_TOKEN", help="The token, if the server needs one.")]
Roots = Annotated[Path | None, typer.Option("--tls-roots", help="A PEM file of the authorities to trust.")]
Certificate = Annotated[
    Path | None, typer.Option("--tls-certificate", help="A PEM file with the client's certificate and key.")
]
Cluster = Annotated[
    str | None, typer.Option(help="Embed on the Ray cluster at this address: auto, ip:port, ray://host:port or local.")
]
Timeout = Annotated[float, typer.Option(min=0.01, help="Seconds that each call to a server may take.")]
Imports = Annotated[list[str] | None, typer.Option("--import", help="A module that registers backbones; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Namespace = Annotated[str | None, typer.Option(help="Only names in this namespace, such as image/classification.")]
Server = Annotated[str, typer.Option(help="The server, grpc://host:port.")]
Prompt = Annotated[str | None, typer.Option(help="Put before each text, such as 'query: '; '' for none.")]
PromptName = Annotated[str | None, typer.Option(help="Put one of the backbone's prompts before each text: 'query'.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(help="Columns of a table to copy to the output, separated by commas; repeatable."),
]
Catalogues = Annotated[
    bool, typer.Option("--all", help="Include every name of timm, transformers and other catalogues.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Replace a backbone that is served with other arguments.")]
ChunkTimeout = Annotated[float, typer.Option(min=0.01, help="Seconds that a server may take for a chunk of items.")]
Concurrency = Annotated[
    list[int] | None, typer.Option(min=1, help="Concurrent callers; repeatable; default: 1, 16 and 64.")
]
Plan = Annotated[
    float | None,
    typer.Option(
        "--plan", min=0.001, max=1e12, help="Rows per second to answer: print the number of servers for them."
    ),
]
CostPerHour = Annotated[
    float | None, typer.Option(min=0.0, max=1e9, help="The cost of one server per hour, for --plan.")
]

# The options above that only calls to a server use, by the names of their parameters.
SERVER_OPTIONS: Final = {
    "token": "--token",
    "roots": "--tls-roots",
    "certificate": "--tls-certificate",
    "timeout": "--timeout",
}


def refuse_options(context: typer.Context, options: Mapping[str, str], reason: str) -> None:
    """Raise ValueError, with the reason, if one of the options is on the command line and has no effect there.

    options: their names by those of their parameters. A value from the environment is not refused.
    """
    for parameter, option in options.items():
        if getattr(context.get_parameter_source(parameter), "name", "") == "COMMANDLINE":
            raise ValueError(f"{option} has no effect: {reason}")


def refuse_unused(context: typer.Context, backbone: str | None) -> None:
    """Raise ValueError for options that have no effect on a backbone of a server, or on one of this process.

    backbone: None for the one that the output names, which is loaded into this process.
    """
    if backbone is None:
        refuse_options(context, SERVER_OPTIONS, "name the server too, by --backbone grpc://host:port/NAME")
    elif "://" in backbone:
        refuse_options(context, {"imports": "--import"}, f"{backbone} is loaded by its server")
    else:
        refuse_options(context, SERVER_OPTIONS, f"{backbone} is loaded into this process, not called on a server")


@dataclass(frozen=True)
class Access:
    """How to reach a server.

    token: a bearer token.  roots, certificate: PEM files for TLS; if both are None, the URL's scheme decides.
    timeout: seconds that each call may take.
    """

    token: str | None
    roots: Path | None
    certificate: Path | None
    timeout: float

    def check_files(self) -> None:
        """Raise FileNotFoundError for a PEM file that does not exist, ValueError for one without a certificate."""
        for option, path in (("--tls-roots", self.roots), ("--tls-certificate", self.certificate)):
            if path is None:
                continue
            if path.is_dir() or not path.exists():
                raise FileNotFoundError(f"{option} {path} is not a file: check the path")
            # A pipe, such as the shell's <(...), can be read only once.
            if path.is_file() and b"CERTIFICATE-----" not in path.read_bytes():
                raise ValueError(f"{option} {path} holds no certificate, expected a PEM file: check the path")

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of a Client. Raises the errors of `check_files`."""
        self.check_files()
        from midrib.remote._connect.address import Tls

        tls = None if self.roots is None and self.certificate is None else Tls(self.roots, self.certificate)
        return {"token": self.token, "tls": tls, "timeout": self.timeout}

    def client(self, address: str) -> Client:
        """Return a client of a server."""
        from midrib.remote._clients.client import Client

        return Client(address, **self.arguments())

    def async_client(self, address: str) -> AsyncClient:
        """Return a client of a server, for coroutines."""
        from midrib.remote._clients.async_client import AsyncClient

        return AsyncClient(address, **self.arguments())
