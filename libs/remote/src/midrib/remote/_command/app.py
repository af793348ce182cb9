"""The application `midrib` with the commands that talk to servers. Each imports its modules when it runs."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from midrib.remote._command.options import (
    MANAGE,
    SERVER_OPTIONS,
    USE,
    Access,
    Catalogues,
    Certificate,
    ChunkTimeout,
    Cluster,
    Concurrency,
    CostPerHour,
    Imports,
    Json,
    Keep,
    Namespace,
    Plan,
    Prompt,
    PromptName,
    Replace,
    Roots,
    Server,
    Timeout,
    Token,
    Version,
    refuse_options,
    refuse_unused,
)
from midrib.remote._command.responsive import say_if_slow
from midrib.remote._command.status.command import status

app = typer.Typer(
    name="midrib",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(context: typer.Context, *, _version: Version = False) -> None:
    """Embed images, texts, sounds and numbers with pretrained backbones, here or on a server."""
    # Read at import. Our errors have the reason already; but a server would log each failed TLS handshake.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR" if context.invoked_subcommand == "serve" else "NONE")


@app.command(name="list", rich_help_panel=USE)
def list_backbones(
    context: typer.Context,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(help="Wildcards, such as '*vit*'; an entry matches any of them."),
    ] = None,
    *,
    exclude: Annotated[list[str] | None, typer.Option(help="A wildcard to leave out; may be repeated.")] = None,
    namespace: Namespace = None,
    catalogues: Catalogues = False,
    server: Annotated[str | None, typer.Option(help="List the backbones of the server at grpc://host:port.")] = None,
    imports: Imports = None,
    token: Token = None,
    roots: Roots = None,
    certificate: Certificate = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """List the registered backbones, or those of a server, without loading them.

    Exits with 1 if nothing matches.
    """
    with say_if_slow("reading the registry ..." if server is None else f"asking {server} ..."):
        from midrib.remote._command.listing import local_registry, no_match, print_list, server_registry
        from midrib.remote._command.names import import_modules, refuse_urls

        refuse_urls(patterns or ())
        import_modules(imports)
        if server is None:
            refuse_options(context, SERVER_OPTIONS, "without --server, the list is of this process")
            registry = local_registry()
        else:
            registry = server_registry(server, Access(token, roots, certificate, timeout))
        metadata = {} if namespace is None else {"namespace": namespace}
        catalogues = catalogues or server is not None
        entries = registry.list(patterns or None, exclude=exclude, catalogues=catalogues, **metadata)
    print_list(registry, entries, as_json=as_json)
    if not entries:
        raise no_match(registry, patterns or (), catalogues=catalogues)


@app.command(rich_help_panel=USE)
def describe(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="namespace/name[?argument=value], a name that is unique, or grpc://host:port/namespace/name."
        ),
    ],
    *,
    server: Annotated[str | None, typer.Option(help="Describe a backbone of the server at grpc://host:port.")] = None,
    imports: Imports = None,
    token: Token = None,
    roots: Roots = None,
    certificate: Certificate = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Describe a backbone: input, features, licence; if it is registered here, also its signature and source file."""
    from midrib.remote._command.names import import_modules
    from midrib.remote._command.served import describe_local, describe_served

    with say_if_slow(f"importing {', '.join(imports or ())} ..."):
        import_modules(imports)
    if server is None and "://" not in name:
        refuse_options(context, SERVER_OPTIONS, "without --server, the description is of this process's backbone")
        describe_local(name, as_json=as_json)
    else:
        describe_served(name, server, Access(token, roots, certificate, timeout), as_json=as_json)


@app.command(rich_help_panel=MANAGE)
def load(
    backbone: Annotated[str, typer.Argument(help="'namespace/name', or 'namespace/name?argument=value'.")],
    *,
    server: Server,
    token: Token = None,
    roots: Roots = None,
    certificate: Certificate = None,
    timeout: Timeout = 600.0,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Have a server load a registered backbone, with arguments that clients may set. Needs the admin scope."""
    from midrib.remote._command import served

    served.load(backbone, server, Access(token, roots, certificate, timeout), replace=replace, as_json=as_json)


@app.command(rich_help_panel=MANAGE)
def unload(
    name: Annotated[str, typer.Argument(help="namespace/name.")],
    *,
    server: Server,
    token: Token = None,
    roots: Roots = None,
    certificate: Certificate = None,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Have a server finish the accepted items of a backbone, and free it. Needs the admin scope."""
    from midrib.remote._command import served

    served.unload(name, server, Access(token, roots, certificate, timeout), as_json=as_json)


@app.command(rich_help_panel=USE)
def embed(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Folders, images, audio files, .txt .jsonl .csv .tsv .parquet .arrow .npy; paths, or URLs (s3:// gs:// hf://)."
        ),
    ],
    *,
    backbone: Annotated[str, typer.Option(help="grpc://host:port/namespace/name, or a registered name.")],
    out: Annotated[str, typer.Option(help=".parquet, .npy or .safetensors; a path or a URL.")],
    column: Annotated[str, typer.Option(help="The column of a table that holds the texts or encoded media.")] = "text",
    id_column: Annotated[str, typer.Option(help="The column of a table that names its rows.")] = "id",
    keep: Keep = None,
    prompt: Prompt = None,
    prompt_name: PromptName = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Keep only the first features of each row.")] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Scale rows to unit length.")] = False,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output of other inputs or another backbone.")
    ] = False,
    ray: Cluster = None,
    imports: Imports = None,
    token: Token = None,
    roots: Roots = None,
    certificate: Certificate = None,
    timeout: ChunkTimeout = 600.0,
    as_json: Json = False,
) -> None:
    """Embed files into one file, with ids and the revision. Repeat the command to resume an interrupted run."""
    from midrib.remote._command import embed as embedding

    refuse_unused(context, backbone)
    made_by = None if overwrite else embedding.backbone_of_output(out, inputs, column, id_column)
    embedding.embed(
        backbone,
        inputs,
        out,
        Access(token, roots, certificate, timeout),
        imports=imports,
        as_json=as_json,
        cluster=ray,
        made_by=made_by,
        column=column,
        id_column=id_column,
        keep=[name for names in keep or () for name in names.split(",")],
        prompt=prompt,
        prompt_name=prompt_name,
        dimensions=dimensions,
        normalize=normalize,
        dtype=dtype,
    )


@app.command(rich_help_panel=USE)
def search(
    context: typer.Context,
    features: Annotated[str, typer.Argument(help="An output of `midrib embed`: .parquet, .npy or .safetensors.")],
    query: Annotated[str, typer.Argument(help="A text, or the path of an image or an audio file.")],
    *,
    backbone: Annotated[
        str | None,
        typer.Option(help="grpc://host:port/namespace/name, or a registered name; default: as the output says."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="The number of rows to show.")] = 5,
    prompt: Prompt = None,
    prompt_name: PromptName = None,
    index: Annotated[str | None, typer.Option(help="NAME.lance, a LanceDB index: built if absent or outdated.")] = None,
    imports: Imports = None,
    token: Token = None,
    roots: Roots = None,
    certificate: Certificate = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Show the rows of embedded files that are nearest to a text or a file, by the cosine of their features."""
    from midrib.remote._command import search as searching

    refuse_unused(context, backbone)
    access = Access(token, roots, certificate, timeout)
    request = searching.Query(query, prompt, prompt_name, top, index)
    searching.search(features, request, backbone, access, imports=imports, as_json=as_json)


@app.command(rich_help_panel=MANAGE)
def doctor(
    url: Annotated[str, typer.Argument(help="grpc://host:port/namespace/name")],
    *,
    token: Token = None,
    roots: Roots = None,
    certificate: Certificate = None,
    timeout: Timeout = 5.0,
    as_json: Json = False,
) -> None:
    """Check each step of the connection to a backbone, with a verdict and a fix.

    Exits with 1 if a step fails.
    """
    typer.echo(f"checking {url} ...", err=True)
    from midrib.remote._command.served import examine

    if not examine(url, Access(token, roots, certificate, timeout), as_json=as_json):
        raise typer.Exit(1)


@app.command(rich_help_panel=MANAGE)
def bench(
    target: Annotated[
        str,
        typer.Argument(help="grpc://host:port/namespace/name, or a name, which is then served for the measurement."),
    ],
    *,
    rows: Annotated[int, typer.Option(min=1, help="Rows per call.")] = 1,
    concurrency: Concurrency = None,
    seconds: Annotated[float, typer.Option(min=0.01, max=86400, help="Seconds per measurement.")] = 3.0,
    load: Plan = None,
    cost_per_hour: CostPerHour = None,
    imports: Imports = None,
    token: Token = None,
    roots: Roots = None,
    certificate: Certificate = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Measure rows per second and latency of a backbone. Exits with 2 for wrong options."""
    from midrib.remote._command.bench import BenchPlan, run

    if load is None and cost_per_hour is not None:
        raise typer.BadParameter("--cost-per-hour needs --plan: name the rows per second to answer")
    plan = BenchPlan(rows, tuple(concurrency or (1, 16, 64)), seconds, load, cost_per_hour)
    run(target, plan, Access(token, roots, certificate, timeout), imports=imports, as_json=as_json)


app.command(rich_help_panel=MANAGE)(status)
