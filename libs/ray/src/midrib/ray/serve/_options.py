"""The options of `up`, the settings of a replica on Ray, and the variables that Ray Serve reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from midrib.ray.serve._waiting import APPLICATION
from midrib.server import Settings

# Without an age a stream never moves to a replica that was added, and a replica that leaves waits for its streams.
_STREAM_AGE_S = 10.0
# Settings that cannot hold for several replicas behind the ingress of Ray.
_NOT_ON_RAY = {
    "admin": "LoadBackbone would reach one replica only: change the settings and run `midrib ray up` again",
    "admin_port": "LoadBackbone would reach one replica only: change the settings and run `midrib ray up` again",
    "http_port": "Ray's ingress passes gRPC only: remove http_port, and use the Open Inference Protocol or gRPC",
    "tls_certificate": "Ray's ingress has no TLS: put a proxy with the certificate before it",
}
_REQUIRED = {
    # Calls go from HAProxy to the replicas' gRPC servers, not through Ray's proxy, which is written in Python.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # A replica answers on the event loop that receives: the context of a call belongs to that loop.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}


@dataclass(frozen=True)
class ServeOptions:
    """How Ray runs the server.

    min_replicas, max_replicas: bounds of the autoscaling; equal for a fixed number. With a minimum of 0 the last
    replica leaves after `downscale_delay_s` without work, and the next call waits until one has started.
    num_cpus, num_gpus: the share of a node that a replica reserves. A CPU replica computes with `num_cpus` threads.
    placement_group_bundles: each replica's, as for `ray.util.placement_group`. The first bundle must hold the replica;
    actors that a backbone starts use the others.
    placement_group_strategy: where the bundles are: PACK, SPREAD, STRICT_PACK or STRICT_SPREAD.
    upscale_delay_s, downscale_delay_s: how long more or fewer replicas must be due before their number changes.
    drain_s: how long a replica that leaves answers new calls, until every proxy knows that it leaves.
    http_port: the port of Ray's HTTP ingress, which answers health checks only.  name: the application's name.
    ingress_replicas, ingress_cpus: how many processes route calls if each backbone is a deployment, and their CPUs.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    placement_group_bundles: tuple[dict[str, float], ...] = ()
    placement_group_strategy: str = "PACK"
    upscale_delay_s: float = 5.0
    downscale_delay_s: float = 60.0
    drain_s: float = 15.0
    http_port: int = 8000
    name: str = "midrib"
    ingress_replicas: int = 1
    ingress_cpus: float = 0.1

    def __post_init__(self) -> None:
        """Raise ValueError for numbers of replicas that contradict each other."""
        if not 0 <= self.min_replicas <= self.max_replicas or not self.max_replicas:
            raise ValueError(
                f"got {self.min_replicas} to {self.max_replicas} replicas, expected 0 <= min_replicas <= max_replicas "
                "and at least one replica as the largest number"
            )


def replica_settings(settings: Settings, options: ServeOptions) -> Settings:
    """Return the settings of each replica. Raises ValueError for settings that cannot hold on Ray."""
    for name, reason in _NOT_ON_RAY.items():
        if getattr(settings, name) != Settings.model_fields[name].default:
            raise ValueError(f"got {name} = {getattr(settings, name)!r} for Ray Serve: {reason}")
    if settings.port == 0:
        raise ValueError(
            f"got port = {settings.port} for Ray Serve, expected the port for its clients: Ray does not choose one"
        )
    if settings.tokens is None and not settings.insecure:
        raise ValueError(
            "Ray's replicas listen on every address of their node without TLS: set tokens, or pass --insecure if the "
            "network of the nodes is trusted"
        )
    if not settings.backbones:
        raise ValueError("nothing to serve: name a backbone in the settings")
    changes: dict[str, Any] = {}
    if settings.max_stream_age_s is None:
        changes["max_stream_age_s"] = _STREAM_AGE_S
    if settings.threads is None:
        changes["threads"] = max(1, int(options.num_cpus))
    if "workers" not in settings.model_fields_set:
        changes["workers"] = "thread"  # Ray replaces a replica that dies or hangs: no other process is needed
    return settings.model_copy(update=changes)


def serve_environment(settings: Settings, options: ServeOptions) -> dict[str, str]:
    """Return the variables that Ray and Ray Serve read at their start. Those of this process take precedence."""
    folder = Path(gettempdir()) / f"midrib-ray-{settings.port}"
    variables = {
        **_REQUIRED,
        APPLICATION: options.name,
        # Ray would run replicas and HAProxy at niceness 15, so that any other process of the node takes their cores.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(options.drain_s),
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        # A message of several megabytes would otherwise wait for an acknowledgement after every 64 KB.
        "RAY_SERVE_HAPROXY_H2_FE_INITIAL_WINDOW_SIZE": "1048576",
        "RAY_SERVE_HAPROXY_H2_BE_INITIAL_WINDOW_SIZE": "1048576",
    }
    return {name: os.environ.get(name, value) for name, value in variables.items()}


def check_environment() -> None:
    """Raise RuntimeError in a process of Ray Serve that lacks the variables without which no call is answered."""
    actual = {name: os.environ.get(name) for name in _REQUIRED}
    if actual != _REQUIRED:
        raise RuntimeError(
            f"Ray Serve runs with {actual}, expected {_REQUIRED}: end it with `serve shutdown`, and let "
            "`midrib ray up` start it"
        )
