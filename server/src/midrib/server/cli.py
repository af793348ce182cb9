"""The command `midrib`. Each command imports what it needs when it runs, so that the light ones stay light."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

# Read when torch is imported. Threads that spin while they wait take the cores of whoever computes: beside a busy
# neighbour a batch of a vision transformer took 316 ms with spinning threads and 105 ms with sleeping ones.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="midrib",
    help="Pretrained backbones behind many small heads: in process, or served over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

BackboneNames = Annotated[
    Optional[list[str]],  # noqa: UP007 - typer reads Optional
    typer.Argument(help="What to serve: 'namespace/name', or with loader arguments 'namespace/name?argument=value'."),
]
Token = Annotated[Optional[str], typer.Option(envvar="MIDRIB_TOKEN", help="A bearer token.")]  # noqa: UP007
Roots = Annotated[Optional[Path], typer.Option("--tls-roots", help="PEM: the authorities to trust.")]  # noqa: UP007
Own = Annotated[
    Optional[Path], typer.Option("--tls-certificate", help="PEM: this client's certificate and key.")  # noqa: UP007
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command()
def serve(  # - a flag is a parameter
    backbones: BackboneNames = None,
    *,
    config: Annotated[Optional[Path], typer.Option(help="A TOML file with the same settings.")] = None,  # noqa: UP007
    host: Annotated[Optional[str], typer.Option(help="The address to listen on. [127.0.0.1]")] = None,  # noqa: UP007
    port: Annotated[Optional[int], typer.Option(help="The port; 0 takes a free one. [50051]")] = None,  # noqa: UP007
    http_port: Annotated[int | None, typer.Option(help="For HTTP; 0 takes a free one. [none]")] = None,
    device: Annotated[Optional[str], typer.Option(help="cpu, cuda, cuda:1 or auto. [auto]")] = None,  # noqa: UP007
    dtype: Annotated[Optional[str], typer.Option(help="What to compute in. [float32]")] = None,  # noqa: UP007
    threads: Annotated[Optional[int], typer.Option(help="Of a CPU replica. [measured]")] = None,  # noqa: UP007
    imports: Annotated[
        Optional[list[str]], typer.Option("--import", help="A module that registers backbones.")  # noqa: UP007
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow an address beyond the loopback.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="Allow loading and unloading by clients.")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show the effective settings.")] = False,
    as_json: Json = False,
) -> None:
    """Serve backbones over gRPC until SIGTERM or Ctrl-C."""
    from midrib.backbones import keep_freed_memory

    keep_freed_memory()
    from midrib.server._command import serve as serving
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
        typer.echo(serving.render_config(settings), nl=False)
    else:
        serving.run(settings, as_json=as_json)


@app.command(name="list")
def list_backbones(
    patterns: Annotated[
        Optional[list[str]], typer.Argument(help="Wildcards, such as '*vit*'; any may match.")  # noqa: UP007
    ] = None,
    *,
    exclude: Annotated[
        Optional[list[str]], typer.Option(help="A wildcard to leave out; may be repeated.")  # noqa: UP007
    ] = None,
    namespace: Annotated[Optional[str], typer.Option(help="Only this data_type/task_type.")] = None,  # noqa: UP007
    catalogues: Annotated[bool, typer.Option("--all", help="With every name of timm, transformers, ...")] = False,
    server: Annotated[Optional[str], typer.Option(help="What grpc://host:port serves.")] = None,  # noqa: UP007
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List the backbones that are registered here, or served there, without loading any."""
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
    """Tell all that is known of one backbone: input, features, licence, signature, where it was registered."""
    from midrib.server._command.listing import print_explanation

    print_explanation(name, as_json=as_json)


@app.command()
def embed(
    inputs: Annotated[list[Path], typer.Argument(help="Folders of images, images, .txt .jsonl .csv .parquet .npy.")],
    *,
    backbone: Annotated[str, typer.Option(help="grpc://host:port/namespace/name, or a registered name.")],
    out: Annotated[Path, typer.Option(help=".parquet, .npy or .safetensors.")],
    column: Annotated[str, typer.Option(help="Where a table's texts, or encoded images, are.")] = "text",
    token: Token = None,
    roots: Roots = None,
    own: Own = None,
) -> None:
    """Embed files into one, with ids and the revision; killed and started again, it goes on."""
    from midrib.server._command import embed as embedding

    embedding.embed(backbone, inputs, out, column=column, token=token, tls=embedding.tls_from(roots, own))


@app.command()
def doctor(
    url: Annotated[str, typer.Argument(help="grpc://host:port/namespace/name")],
    *,
    token: Token = None,
    roots: Roots = None,
    own: Own = None,
    as_json: Json = False,
) -> None:
    """Check the way to a served backbone, step by step, each with a verdict and a fix."""
    from midrib.server._command import embed as embedding

    if not embedding.examine(url, token=token, tls=embedding.tls_from(roots, own), as_json=as_json):
        raise typer.Exit(1)


@app.command(name="token")
def make_token(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    scope: Annotated[
        Optional[list[str]], typer.Option(help="read, embed or admin; may be repeated. [read, embed]")  # noqa: UP007
    ] = None,
) -> None:
    """Make a token: itself on stdout, once, and its entry for the server's token file on stderr."""
    from midrib.server._admission.tokens import Scope, new_token

    secret, entry = new_token(name, [Scope(one) for one in scope or ("read", "embed")])
    typer.echo(secret)
    typer.echo(entry, nl=False, err=True)


@app.command()
def bench(
    target: Annotated[str, typer.Argument(help="grpc://host:port/namespace/name, or a name to serve for the while.")],
    *,
    rows: Annotated[int, typer.Option(min=1, help="Of one call.")] = 1,
    concurrency: Annotated[
        Optional[list[int]], typer.Option(min=1, help="Callers at once; may be repeated. [1, 16, 64]")  # noqa: UP007
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Of each measurement.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Measure how fast one backbone answers: rows a second, and how long a call takes."""
    from midrib.server._command.bench import run

    run(target, rows=rows, concurrency=concurrency or (1, 16, 64), seconds=seconds, as_json=as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to save the picture.")] = Path("midrib-demo.png"),
    epochs: Annotated[int, typer.Option(min=1, help="Of each training.")] = 3,
) -> None:
    """Serve EfficientNet-Lite0 and train one head on it twice: through the server, and in process."""
    from midrib.backbones import keep_freed_memory
    from midrib.server._command.demo.run import run

    keep_freed_memory()  # as the server does: the two are compared
    run(out, epochs=epochs)


def main() -> None:
    """Run the command; an error that the user can mend is one line on stderr and exit status 1."""
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
