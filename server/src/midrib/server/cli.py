"""The command `midrib`. Each command imports what it needs when it runs, so that the light ones stay light."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

# Read when torch is imported. Threads that spin while they wait take cores from threads that compute: beside a busy
# neighbour a batch of a vision transformer took 316 ms with spinning threads and 105 ms with sleeping ones.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="midrib",
    help="Pretrained backbones behind many small heads: in process, or served over gRPC.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        try:
            number = version("midrib-server")
        except PackageNotFoundError:
            number = "of a checkout, not installed as a wheel"
        typer.echo(f"midrib {number}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pretrained backbones behind many small heads: in process, or served over gRPC."""


BackboneNames = Annotated[
    list[str] | None,
    typer.Argument(help="What to serve: 'namespace/name', or 'namespace/name?argument=value' with loader arguments."),
]
Token = Annotated[str | None, typer.Option(envvar="MIDRIB_TOKEN", help="A bearer token.")]
Roots = Annotated[Path | None, typer.Option("--tls-roots", help="A PEM file of the authorities to trust.")]
Own = Annotated[
    Path | None,
    typer.Option("--tls-certificate", help="A PEM file with the client's certificate and key."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command()
def serve(  # - a flag is a parameter
    backbones: BackboneNames = None,
    *,
    config: Annotated[Path | None, typer.Option(help="A TOML file with the same settings.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="The gRPC port; 0 takes a free one; default 50051.")] = None,
    http_port: Annotated[int | None, typer.Option(help="The HTTP port; 0 takes a free one; default: no HTTP.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto; default auto.")] = None,
    dtype: Annotated[str | None, typer.Option(help="The type to compute in; default float32.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads per CPU replica; default: measured at load.")] = None,
    imports: Annotated[list[str] | None, typer.Option("--import", help="A module that registers backbones.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow an address beyond the loopback.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="Allow clients to load and unload backbones.")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show the effective settings.")] = False,
    as_json: Json = False,
) -> None:
    """Serve backbones over gRPC until SIGTERM or Ctrl-C."""
    from midrib.backbones import keep_freed_memory

    keep_freed_memory()
    from midrib.server._command import serve as serving
    from midrib.server._command.configuration import render_config
    from midrib.server._settings import load_settings

    settings = load_settings(
        config,
        backbones=[serving.parse_backbone(text) for text in backbones] if backbones else None,
        host=host,
        port=port,
        http_port=http_port,
        device=device,
        dtype=dtype,
        threads=threads,
        imports=imports or None,
        insecure=insecure or None,
        admin=admin or None,
    )
    if print_config:
        typer.echo(render_config(settings), nl=False)
    else:
        serving.run(settings, as_json=as_json)


@app.command()
def status(
    address: Annotated[str, typer.Argument(help="The server's HTTP address, as host:port.")] = "127.0.0.1:8080",
    *,
    token: Annotated[str | None, typer.Option(help="A token that may read the metrics.")] = None,
    as_json: Json = False,
) -> None:
    """Show the state of a server's backbones, and their worker processes with pid, memory and restarts."""
    from midrib.server._command.status import print_status

    print_status(address, token=token, as_json=as_json)


@app.command(name="list")
def list_backbones(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(help="Wildcards, such as '*vit*'; an entry matches any of them."),
    ] = None,
    *,
    exclude: Annotated[list[str] | None, typer.Option(help="A wildcard to leave out; may be repeated.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Only this data_type/task_type.")] = None,
    catalogues: Annotated[
        bool, typer.Option("--all", help="Include every name of timm, transformers and other catalogues.")
    ] = False,
    server: Annotated[str | None, typer.Option(help="List what the server at grpc://host:port serves.")] = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List the backbones that are registered, or that a server serves, without loading any."""
    from midrib.server._command.listing import listed_registry, print_list

    registry = listed_registry(server, token)
    metadata = {} if namespace is None else {"namespace": namespace}
    catalogues = catalogues or server is not None
    entries = registry.list(patterns or None, exclude=exclude, catalogues=catalogues, **metadata)
    print_list(registry, entries, as_json=as_json)


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="'namespace/name', or a name that is unique.")], *, as_json: Json = False
) -> None:
    """Describe one backbone: input, features, licence, signature, and where it was registered."""
    from midrib.server._command.listing import print_explanation

    print_explanation(name, as_json=as_json)


@app.command()
def embed(
    inputs: Annotated[list[Path], typer.Argument(help="Folders of images, images, .txt .jsonl .csv .parquet .npy.")],
    *,
    backbone: Annotated[str, typer.Option(help="grpc://host:port/namespace/name, or a registered name.")],
    out: Annotated[Path, typer.Option(help=".parquet, .npy or .safetensors.")],
    column: Annotated[str, typer.Option(help="The column of a table that holds the texts or encoded images.")] = "text",
    id_column: Annotated[str, typer.Option(help="The column of a table that names its rows.")] = "id",
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds that a server has for a chunk of items.")] = 600.0,
    token: Token = None,
    roots: Roots = None,
    own: Own = None,
) -> None:
    """Embed files into one file, with ids and the revision. A run that was killed resumes when it is started again."""
    from midrib.server._command import embed as embedding

    embedding.embed(
        backbone,
        inputs,
        out,
        column=column,
        id_column=id_column,
        token=token,
        tls=embedding.tls_from(roots, own),
        timeout=timeout,
    )


@app.command()
def doctor(
    url: Annotated[str, typer.Argument(help="grpc://host:port/namespace/name")],
    *,
    token: Token = None,
    roots: Roots = None,
    own: Own = None,
    as_json: Json = False,
) -> None:
    """Check the connection to a served backbone step by step; each step has a verdict and a fix."""
    from midrib.server._command import embed as embedding

    if not embedding.examine(url, token=token, tls=embedding.tls_from(roots, own), as_json=as_json):
        raise typer.Exit(1)


@app.command(name="token")
def make_token(
    name: Annotated[str, typer.Argument(help="The name of its holder.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, embed or admin; may be repeated; default: read and embed."),
    ] = None,
) -> None:
    """Make a token. Print the token to stdout, and its entry for the server's token file to stderr."""
    from midrib.server._admission.tokens import Scope, new_token

    secret, entry = new_token(name, [Scope(word) for word in scope or ("read", "embed")])
    typer.echo(secret)
    typer.echo(entry, nl=False, err=True)


@app.command()
def bench(
    target: Annotated[
        str,
        typer.Argument(help="grpc://host:port/namespace/name, or a name, which is then served for the measurement."),
    ],
    *,
    rows: Annotated[int, typer.Option(min=1, help="Rows per call.")] = 1,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Concurrent callers; may be repeated; default: 1, 16 and 64."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds per measurement.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Measure the rows per second and the latency of one backbone."""
    from midrib.server._command.bench import run

    run(target, rows=rows, concurrency=concurrency or (1, 16, 64), seconds=seconds, as_json=as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The file to save the picture to.")] = Path("midrib-demo.png"),
    epochs: Annotated[int, typer.Option(min=1, help="Epochs per training.")] = 3,
) -> None:
    """Serve EfficientNet-Lite0 and train one head on it twice: through the server, and in process."""
    from midrib.backbones import keep_freed_memory
    from midrib.server._command.demo.run import run

    keep_freed_memory()  # as the server does: the two are compared
    run(out, epochs=epochs)


def main() -> None:
    """Run the command; an error of use is one line on stderr and exit status 1."""
    try:
        app()
    except (LookupError, ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        typer.secho(f"midrib: {_sentence(error)}", fg=typer.colors.RED, err=True)
        sys.exit(1)


def _sentence(error: Exception) -> str:
    details = getattr(error, "errors", None)
    if callable(details):  # pydantic's: one line a field, without its links
        return "\n".join(
            f"{'.'.join(map(str, detail['loc'])) or 'settings'}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in details()
        )
    return str(error)


if __name__ == "__main__":
    main()
