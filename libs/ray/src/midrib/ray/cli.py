"""The commands of `midrib ray`. Each imports Ray when it runs."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(name="ray", help="Serve backbones on a Ray cluster.", no_args_is_help=True)


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
    min_replicas: Annotated[int, typer.Option(min=1, help="The smallest number of replicas.")] = 1,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="The largest; default: --min-replicas.")] = None,
    cpus: Annotated[float, typer.Option(min=0.0, help="CPUs that a replica reserves.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0.0, help="GPUs that a replica reserves, such as 0.5.")] = 0.0,
    upscale_delay_s: Annotated[float, typer.Option(min=0.0, help="Seconds of high load before replicas come.")] = 5.0,
    downscale_delay_s: Annotated[float, typer.Option(min=0.0, help="Seconds of low load before some leave.")] = 60.0,
    drain_s: Annotated[
        float, typer.Option(min=0.0, help="Seconds that a leaving replica still answers new calls.")
    ] = 15.0,
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="The port of Ray Serve's HTTP ingress.")] = 8000,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow calls without tokens.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Serve the backbones of a TOML file on Ray Serve, on as many replicas as the load needs."""
    from midrib.ray import serve
    from midrib.server import load_settings

    settings = load_settings(config, insecure=insecure or None)
    options = serve.ServeOptions(
        min_replicas=min_replicas,
        max_replicas=max_replicas or min_replicas,
        num_cpus=cpus,
        num_gpus=gpus,
        upscale_delay_s=upscale_delay_s,
        downscale_delay_s=downscale_delay_s,
        drain_s=drain_s,
        http_port=http_port,
    )
    ingress = serve.up(settings, options, address=address, **({} if address else {"include_dashboard": False}))
    urls = [f"grpc://{ingress}/{backbone.name}" for backbone in settings.backbones]
    ready = {"event": "ready", "address": ingress, "urls": urls, "cluster": serve.cluster()}
    typer.echo(json.dumps(ready) if as_json else "\n".join([*urls, f"cluster: {serve.cluster()}"]))
    if address is None:
        _wait_for_signal()
        serve.down()


def _wait_for_signal() -> None:
    """Return after SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
