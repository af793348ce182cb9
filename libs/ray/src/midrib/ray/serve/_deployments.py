"""The deployments of Ray Serve: one of all backbones, or one for each of them and one that takes their calls."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from midrib.ray.serve._options import ServeOptions, replica_settings
from midrib.server import Settings

# Serve counts a stream as one ongoing request. The limits of our server are lower and answer with a reason.
_MAX_ONGOING_REQUESTS = 100_000
# The share of the replicas, rounded up, that a change starts before it ends old ones.
_SURGE_PERCENT = 20
# The longest life of a stream, as a multiple of `max_stream_age_s`, which varies by 20 % between streams.
_LONGEST_AGE = 1.2


def check_options(
    settings: Settings, options: ServeOptions, backbone_options: Mapping[str, ServeOptions] | None
) -> None:
    """Raise ValueError for settings that cannot hold on Ray, and for options of a backbone that the settings lack.

    backbone_options: as for `up`.
    """
    replica_settings(settings, options)
    names = [backbone.name for backbone in settings.backbones]
    if unknown := sorted(set(backbone_options or ()) - set(names)):
        raise ValueError(
            f"got options for the backbones {', '.join(unknown)}, expected some of the settings' {', '.join(names)}"
        )


def deployment_of_all(settings: Settings, options: ServeOptions) -> Any:
    """Return the deployment, for `serve.run`, whose replicas each serve all backbones and take the calls."""
    from midrib.ray.serve._replica import BackboneReplica

    single = replica_settings(settings, options)
    return _deployment(BackboneReplica, settings=single, options=options).bind(single.model_dump(mode="json"))


def deployment_of_one(settings: Settings, options: ServeOptions) -> tuple[Any, str]:
    """Return the deployment of a backbone behind the ingress, and the digest of its settings and options.

    settings: those with this backbone only.
    """
    from midrib.ray.serve._replica import BehindIngressReplica

    single = replica_settings(settings, options)
    fields = single.model_dump(mode="json")
    digest = digest_of(fields, asdict(options))
    return _deployment(BehindIngressReplica, settings=single, options=options).bind(fields, digest), digest


def ingress_deployment(settings: Settings, options: ServeOptions, applications: Mapping[str, str]) -> tuple[Any, str]:
    """Return the deployment that takes all calls, and the digest of its arguments and options.

    applications: the backbones' applications, by their names and aliases.
    """
    from ray import serve

    from midrib.ray.serve._replica import IngressReplica

    single = replica_settings(settings, options)
    fields = single.model_dump(mode="json", include={"tokens", "public_health", "max_stream_age_s"})
    digest = digest_of(dict(applications), {**asdict(options), **fields})
    deployment = serve.deployment(
        num_replicas=options.ingress_replicas,
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=_longest_drain_s(single, options),
        ray_actor_options={"num_cpus": options.ingress_cpus},
    )(IngressReplica)
    return deployment.bind(dict(applications), digest, fields), digest


def digest_of(*values: dict[str, Any]) -> str:
    """Return a digest of values that JSON can hold."""
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _deployment(replica: type, *, settings: Settings, options: ServeOptions) -> Any:
    from ray import serve

    groups: dict[str, Any] = {
        "placement_group_bundles": list(options.placement_group_bundles),
        "placement_group_strategy": options.placement_group_strategy,
    }
    return serve.deployment(
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=_longest_drain_s(settings, options),
        max_surge_percent=_SURGE_PERCENT if _has_room(options) else 0,
        ray_actor_options={
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
            # Replicas share the cores of a node.
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(max(1, int(options.num_cpus)))}},
        },
        **(groups if options.placement_group_bundles else {}),
        **_replicas(options),
    )(replica)


def _has_room(options: ServeOptions) -> bool:
    """Return whether the cluster has room for one more replica.

    With room, a change starts a replica before it ends an old one, which stays if the new one does not load. Without
    room, the new replica would wait for ever.
    """
    import ray

    single = {"CPU": options.num_cpus, "GPU": options.num_gpus}
    free, needed = ray.available_resources(), Counter[str]()
    for bundle in options.placement_group_bundles or (single,):
        needed.update(bundle)
    return all(free.get(name, 0.0) >= amount for name, amount in needed.items())


def _longest_drain_s(settings: Settings, options: ServeOptions) -> float:
    """Return the most seconds that a leaving replica needs to end its streams."""
    return options.drain_s + _LONGEST_AGE * (settings.max_stream_age_s or 0.0) + settings.drain_grace_s


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
