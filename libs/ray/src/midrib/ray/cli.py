"""The commands of `midrib ray`. Each imports Ray when it runs."""

from __future__ import annotations

import json
import queue
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from midrib.ray.serve import ServeOptions
    from midrib.server import Settings

app = typer.Typer(name="ray", no_args_is_help=True, add_completion=False)


@app.callback()
def options() -> None:
    """Serve backbones on a Ray cluster."""


@app.command()
def up(
    config: Annotated[Path, typer.Argument(help="A TOML file with the settings of `midrib serve`.")],
    *,
    address: Annotated[
        str | None,
        typer.Option(help="The Ray cluster to join, such as auto; default: a Ray on this machine until Ctrl-C."),
    ] = None,
    min_replicas: Annotated[int, typer.Option(min=0, help="The fewest replicas; 0: none while nobody calls.")] = 1,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="The most replicas; default: --min-replicas.")] = None,
    cpus: Annotated[float, typer.Option(min=0.0, help="CPUs that a replica reserves.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0.0, help="GPUs that a replica reserves, such as 0.5.")] = 0.0,
    upscale_delay_s: Annotated[float, typer.Option(min=0.0, help="Seconds of high load before replicas start.")] = 5.0,
    downscale_delay_s: Annotated[float, typer.Option(min=0.0, help="Seconds of low load before replicas stop.")] = 60.0,
    backbone_options: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file with options for each backbone, such as num_gpus: each is then a separate deployment."
        ),
    ] = None,
    drain_s: Annotated[
        float, typer.Option(min=0.0, help="Seconds in which a replica that stops answers new calls.")
    ] = 15.0,
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="The port of Ray Serve's HTTP ingress.")] = 8000,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow calls without tokens.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Serve the backbones of a TOML file on Ray Serve, on as many replicas as the load needs.

    Without --address it stays until Ctrl-C, and serves the changed file after SIGHUP.
    """
    from midrib.ray.serve import ServeOptions, down
    from midrib.server import load_settings

    options = ServeOptions(
        min_replicas=min_replicas,
        max_replicas=max_replicas or max(1, min_replicas),
        num_cpus=cpus,
        num_gpus=gpus,
        upscale_delay_s=upscale_delay_s,
        downscale_delay_s=downscale_delay_s,
        drain_s=drain_s,
        http_port=http_port,
    )
    load = partial(load_settings, config, insecure=insecure or None)
    serve = partial(_serve, load, options, tables=backbone_options, address=address, as_json=as_json)
    serve()
    if address is None:
        _until_end(serve)
        down()


def _serve(
    load: Callable[[], Settings], options: ServeOptions, *, tables: Path | None, address: str | None, as_json: bool
) -> None:
    """Serve the backbones of the settings, and print their URLs once they answer.

    tables: the file with the options of each backbone's deployment.
    """
    from midrib.ray.serve import read_backbone_options, up

    settings = load()
    ingress = up(
        settings,
        options,
        backbone_options=None if tables is None else read_backbone_options(tables, options),
        address=address,
        **({} if address else {"include_dashboard": False}),
    )
    urls = [f"grpc://{ingress}/{backbone.name}" for backbone in settings.backbones]
    typer.echo(json.dumps({"event": "ready", "address": ingress, "urls": urls}) if as_json else "\n".join(urls))


def _until_end(serve: Callable[[], None]) -> None:
    """Return after SIGTERM or SIGINT. After each SIGHUP, serve the changed file.

    If it does not load, the replicas stay; but without room for one more in the cluster, the last one may have ended.
    """
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: signals.put(received))
    while signals.get() == signal.SIGHUP:
        try:
            serve()
        except Exception as error:  # noqa: BLE001 - also Ray's own: the end of this process would end the replicas
            typer.secho(f"midrib: the changed file is not served: {error}", fg=typer.colors.RED, err=True)
