"""Deploy a server on Ray Serve."""

from __future__ import annotations

import os
from typing import Any

from midrib.ray._connect import connect
from midrib.ray.serve._options import ServeOptions, replica_settings, serve_environment
from midrib.server import Settings

# Serve counts a stream as one ongoing request. The limits of our server are lower and answer with a reason.
_MAX_ONGOING_REQUESTS = 100_000
_SERVICES = "midrib.ray.serve._ingress.add_services"
# The longest life of a stream, in ages: the streams that were opened last end after the drain.
_LONGEST_AGE = 1.2


def up(
    settings: Settings, options: ServeOptions | None = None, *, address: str | None = None, **ray_options: Any
) -> str:
    """Serve the backbones of the settings on Ray, and return the address for clients, "host:port", once they answer.

    address: of the cluster to join, as for `ray.init`; by default this process starts a Ray on this machine.
    ray_options: of `ray.init`.
    Raises ValueError for settings that cannot hold on Ray, ConnectionError if no cluster can be joined at the address,
    RuntimeError if the replicas cannot be started, for example because Ray Serve runs already, with another port or
    without the variables of this function. Call it again with other settings to replace the replicas one after the
    other.
    """
    options = options or ServeOptions()
    replica = replica_settings(settings, options)
    environment = serve_environment(settings, options)
    os.environ.update(environment)  # ray.serve reads them when it is imported
    import ray
    from ray import serve

    if not ray.is_initialized():
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
    serve.run(_deployment(replica, options), name=options.name)
    return f"{settings.host}:{settings.port}"


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


def _deployment(settings: Settings, options: ServeOptions) -> Any:
    from ray import serve

    from midrib.ray.serve._replica import BackboneReplica

    age_s = settings.max_stream_age_s or 0.0
    deployment = serve.deployment(
        name="BackboneReplica",
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=options.drain_s + _LONGEST_AGE * age_s + settings.drain_grace_s,
        ray_actor_options={
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
            # Replicas share the cores of a node.
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(max(1, int(options.num_cpus)))}},
        },
        placement_group_bundles=list(options.placement_group_bundles) or None,
        **_replicas(options),
    )(BackboneReplica)
    return deployment.bind(settings.model_dump(mode="json"))


def _replicas(options: ServeOptions) -> dict[str, Any]:
    """Return the number of replicas, or how it follows the load."""
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    from midrib.ray.serve._scaling import by_device_time

    if options.min_replicas == options.max_replicas:
        return {"num_replicas": options.max_replicas}
    scaling = AutoscalingConfig(
        min_replicas=options.min_replicas,
        initial_replicas=max(1, options.min_replicas),  # a backbone that does not load is an error of `up`
        max_replicas=options.max_replicas,
        metrics_interval_s=1.0,
        look_back_period_s=5.0,
        upscale_delay_s=options.upscale_delay_s,
        downscale_delay_s=options.downscale_delay_s,
        policy=AutoscalingPolicy(policy_function=by_device_time),
    )
    return {"autoscaling_config": scaling}
