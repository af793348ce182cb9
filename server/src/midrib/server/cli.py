"""The commands of `midrib` that need the server's packages. Each imports its modules when it runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from midrib.remote._command.options import START, USE
from midrib.remote._command.responsive import end_soon_after_ctrl_c, ended_by_ctrl_c
from midrib.remote.cli import application, parse_backbone, run
from midrib.server._command import heads
from midrib.server._command.unknown_options import refuse_in_names

app = application()

BackboneNames = Annotated[
    list[str] | None,
    typer.Argument(
        help="Backbones to serve: 'namespace/name', or 'namespace/name?argument=value' with loader arguments."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command(rich_help_panel=START, context_settings={"ignore_unknown_options": True})
def serve(  # a flag is a parameter
    context: typer.Context,
    backbones: BackboneNames = None,
    *,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings: see --print-config.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="The gRPC port; 0 takes a free one; default 50051.")] = None,
    http_port: Annotated[int | None, typer.Option(help="The HTTP port; 0 takes a free one; default: no HTTP.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto; default auto.")] = None,
    dtype: Annotated[str | None, typer.Option(help="The type to compute in; default float32.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads per CPU replica; default: measured at load.")] = None,
    imports: Annotated[list[str] | None, typer.Option("--import", help="A module that registers backbones.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let anyone call, without TLS and tokens.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="Allow clients to load and unload backbones.")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the settings, and end.")] = False,
    as_json: Json = False,
) -> None:
    """Serve backbones over gRPC, and over HTTP with --http-port, until SIGTERM or Ctrl-C."""
    from midrib.server._command.configuration import render_config
    from midrib.server._load_settings import load_settings

    refuse_in_names(context, backbones or ())
    settings = load_settings(
        config,
        backbones=[parse_backbone(text) for text in backbones] if backbones else None,
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
        return
    if settings.workers == "process":
        from midrib.server._catalogue.processes import start_forking

        start_forking()  # it imports torch while this process imports the server
    from midrib.server._command import serve as serving

    serving.run(settings, as_json=as_json)


@app.command(name="token", rich_help_panel=START)
def make_token(
    name: Annotated[str, typer.Argument(help="The user of the token, such as team-a.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, embed or admin; repeatable; default: read and embed."),
    ] = None,
) -> None:
    """Print a new token to stdout, and its entry for the token file to stderr.

    Exits with 1 for a wrong scope.
    """
    from midrib.server._admission.tokens import Scope, new_token

    scopes = scope or ["read", "embed"]
    if unknown := [word for word in scopes if word not in list(Scope)]:
        raise ValueError(f"scope {unknown[0]!r} is unknown, expected {', '.join(Scope)}")
    secret, entry = new_token(name, [Scope(word) for word in scopes])
    typer.echo(secret)
    typer.echo(entry, nl=False, err=True)


@app.command(
    name="ray",
    rich_help_panel=START,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def on_ray(context: typer.Context) -> None:
    """Serve backbones on a Ray cluster: see `midrib ray --help`.

    Exits with 1 if midrib-ray is not installed.
    """
    try:
        commands = importlib.import_module("midrib.ray.cli")
    except ModuleNotFoundError as error:
        raise ImportError(f"`midrib ray` needs Ray ({error}): pip install 'midrib-ray[serve]'") from error
    commands.app(context.args, prog_name="midrib ray")


_pass_to_lightning = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command(rich_help_panel=USE, context_settings=_pass_to_lightning)(heads.train)
app.command(rich_help_panel=USE)(heads.predict)


@app.command(rich_help_panel=USE)
def demo(
    out: Annotated[Path, typer.Option(help="The file to save the picture to.")] = Path("midrib-demo.png"),
    epochs: Annotated[int, typer.Option(min=1, help="Epochs per training.")] = 3,
) -> None:
    """Serve EfficientNet-Lite0 and train one head on it twice: through the server, and in process."""
    from midrib.remote._command.names import check_out

    check_out(out)
    with ended_by_ctrl_c():
        typer.echo("importing torch and Lightning ...")
        from midrib.backbones import keep_freed_memory
        from midrib.server._command.demo.run import run
    end_soon_after_ctrl_c()
    keep_freed_memory()  # as in the server, because the demo compares both
    run(out, epochs=epochs)


def main() -> None:
    """Run the command; an error of use is one sentence on stderr and exit status 1."""
    run(app)


if __name__ == "__main__":
    main()
