"""Deploy a server on Ray Serve."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from midrib.ray._connect import connect
from midrib.ray.serve._applications import run_applications
from midrib.ray.serve._deployments import check_options
from midrib.ray.serve._options import ServeOptions, serve_environment
from midrib.server import Settings

_SERVICES = "midrib.ray.serve._ingress.add_services"
# Ray's variables and their defaults: of HAProxy, and of the proxies that answer while there is no replica.
_PORTS = {
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": 9500,
}


def up(
    settings: Settings,
    options: ServeOptions | None = None,
    *,
    backbone_options: Mapping[str, ServeOptions] | None = None,
    address: str | None = None,
    **ray_options: Any,
) -> str:
    """Serve the backbones of the settings on Ray, and return the address for clients, "host:port", once they answer.

    backbone_options: makes each backbone a deployment, with the options under its name or else with `options`. By
    default each replica serves all backbones.
    address: the cluster to join, as for `ray.init`; by default this process starts a Ray on this machine.
    ray_options: of `ray.init`.
    Raises ValueError for settings that cannot hold on Ray, ConnectionError if no cluster can be joined at the address,
    RuntimeError if the replicas cannot be started, for example because a port is in use, or because Ray Serve already
    runs with another port or without the variables of this function.
    Call it again with other settings to replace the replicas one after the other.
    """
    options = options or ServeOptions()
    check_options(settings, options, backbone_options)
    environment = serve_environment(settings, options)
    os.environ.update(environment)  # ray.serve reads them when it is imported
    import ray
    from ray import serve

    if not ray.is_initialized():
        if address in (None, "local"):
            _check_ports(settings, options)
        connect(address or "local", runtime_env={"env_vars": environment}, **ray_options)
    serve.start(
        http_options={"host": settings.host, "port": options.http_port},
        grpc_options={
            "port": settings.port,
            "grpc_servicer_functions": [_SERVICES],
            "enable_reflection": False,
        },
    )
    _check_ingress(settings)
    run_applications(settings, options, backbone_options)
    return f"{settings.host}:{settings.port}"


def _check_ports(settings: Settings, options: ServeOptions) -> None:
    """Raise RuntimeError if another process listens on a port of Ray Serve: Ray would fail after a minute."""
    ports = {"port in the settings": settings.port, "--http-port": options.http_port}
    ports |= {name: int(os.environ.get(name) or default) for name, default in _PORTS.items()}
    for name, port in ports.items():
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            raise RuntimeError(
                f"cannot listen on port {port} ({error}): end the other process, such as another `midrib ray up`, or "
                f"set another {name}"
            ) from error


def _check_ingress(settings: Settings) -> None:
    """Raise RuntimeError if Ray Serve ran before with another ingress: Ray keeps that."""
    import ray
    from ray.serve.context import _get_global_client

    controller = _get_global_client()._controller  # noqa: SLF001 - Ray has no public function for it
    host, port = ray.get(controller.get_http_config.remote()).host, ray.get(controller.get_grpc_config.remote()).port
    if (host, port) != (settings.host, settings.port):
        raise RuntimeError(
            f"Ray Serve listens on {host}:{port} already, expected {settings.host}:{settings.port}: set that host and "
            "port, or end it with `serve shutdown` first"
        )


def down() -> None:
    """End Serve with all its applications, and leave the cluster."""
    import ray
    from ray import serve

    serve.shutdown()
    ray.shutdown()
