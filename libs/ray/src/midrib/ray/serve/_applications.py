"""The applications of Ray Serve: each is replaced only if its settings or options have changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from midrib.ray.serve._deployments import deployment_of_all, deployment_of_one, ingress_deployment
from midrib.ray.serve._options import ServeOptions
from midrib.server import Settings

# A replica answers at once. A deployment without a healthy one is replaced.
_ANSWER_S = 30.0


def run_applications(
    settings: Settings, options: ServeOptions, backbone_options: Mapping[str, ServeOptions] | None
) -> None:
    """Serve the settings; return once all replicas answer. Applications of earlier settings end.

    Raises RuntimeError, with the error of a replica, if the replicas cannot start.
    backbone_options: as for `up`.
    """
    from ray import serve

    if backbone_options is None:
        deployment = deployment_of_all(settings, options)
        _start(lambda: serve.run(deployment, name=options.name), [options.name])
        _delete_all_but(set(), options.name)
        return
    applications = {}
    deployments = {}
    for backbone in settings.backbones:
        single = settings.model_copy(update={"backbones": (backbone,)})
        name = f"{options.name}.{backbone.name.replace('/', '.')}"  # Ray makes it a part of file names
        deployments[name] = deployment_of_one(single, backbone_options.get(backbone.name, options))
        applications.update(dict.fromkeys((backbone.name, *backbone.aliases), name))
    ingress = {options.name: ingress_deployment(settings, options, applications)}
    if options.name in serve.status().applications:
        _run_changed(deployments, ingress=options.name)  # before the ingress knows of them
        _run_changed(ingress, ingress=options.name)
    else:
        _run_changed({**deployments, **ingress}, ingress=options.name)
    _delete_all_but(set(deployments), options.name)


def _run_changed(deployments: Mapping[str, tuple[Any, str]], *, ingress: str) -> None:
    """Run the applications that do not run with the same digest.

    HAProxy knows no application without a route, so that all calls go to the ingress.
    """
    from ray import serve

    changed = [
        serve.RunTarget(deployment, name, "/" if name == ingress else None)
        for name, (deployment, digest) in deployments.items()
        if _running_digest(name) != digest
    ]
    if changed:
        _start(lambda: serve.run_many(changed), [target.name for target in changed])


def _start(run: Callable[[], object], names: Collection[str]) -> None:
    """Run applications. Raises RuntimeError with the error of a replica that cannot start: Ray's does not name it."""
    try:
        run()
    except RuntimeError as error:
        if not (reasons := _failures(names)):
            raise
        raise RuntimeError(f"the replicas cannot start: {'; '.join(reasons)}") from error


def _failures(names: Collection[str]) -> list[str]:
    """Return the last line of the error of each deployment that failed."""
    from ray import serve

    applications = [status for name, status in serve.status().applications.items() if name in names]
    messages = [deployment.message for status in applications for deployment in status.deployments.values()]
    errors = [message.partition("Error:\n")[2].strip() for message in messages]
    return [error.splitlines()[-1] for error in errors if error]


def _running_digest(name: str) -> str | None:
    """Return the digest of an application; None if it does not run, or has no digest."""
    from ray import serve

    if name not in serve.status().applications:
        return None
    try:
        digest: str = serve.get_app_handle(name).digest.remote().result(timeout_s=_ANSWER_S)
    except Exception:  # noqa: BLE001 - an application that cannot answer is replaced
        return None
    return digest


def _delete_all_but(names: set[str], ingress: str) -> None:
    """End the applications of backbones that are not served any more."""
    from ray import serve

    for name in serve.status().applications:
        if name.startswith(f"{ingress}.") and name not in names:
            serve.delete(name)
