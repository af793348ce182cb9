"""Join a Ray cluster, with its token if it needs one."""

from __future__ import annotations

import socket
from typing import Any, Final

_REACHABLE_S: Final = 10.0


def connect(address: str, **options: Any) -> None:
    """Join the cluster at an address, as `ray.init` does.

    address: "auto", host:port, ray://host:port, or "local", which starts a Ray on this machine.
    options: of `ray.init`.
    `ray start` of Ray 2.60 expects the token of its user, which `ray.init` sends only to "auto". This function also
    sends it to addresses of this machine. Raises ConnectionError if no cluster answers, if it expects another token, or
    if a Ray on this machine does not start in time.
    """
    import ray

    if address == "local":
        _start_local(options)
        return
    _check_reachable(address)
    if _is_local(address):
        _send_token()
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise ConnectionError(
            f"cannot join a Ray cluster at {address} ({error}): check the address with `ray status`. If the cluster "
            "expects a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file of its token"
        ) from error


def _start_local(options: dict[str, Any]) -> None:
    """Start a Ray on this machine. Raises ConnectionError if its processes do not answer within Ray's 30 seconds."""
    import ray

    try:
        ray.init(address="local", **options)
    except Exception as error:
        if type(error) is not Exception:  # Ray raises this class itself for its processes
            raise
        raise ConnectionError(
            f"cannot start a Ray on this machine ({error}) Try again once other processes leave it memory and cores; "
            "its logs are in /tmp/ray/session_latest/logs"
        ) from error


def _check_reachable(address: str) -> None:
    """Raise ConnectionError if nothing listens at host:port or ray://host:port: `ray.init` tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_S).close()
    except OSError as error:
        raise ConnectionError(
            f"cannot reach a Ray cluster at {address} ({error}): check the address with `ray status`, and start a "
            "cluster with `ray start --head`"
        ) from error


def _is_local(address: str) -> bool:
    """Return whether host:port is an address of this machine."""
    host, separator, port = address.rpartition(":")
    if not (separator and port.isdigit()) or "/" in host:
        return False
    try:
        socket.create_server((host, 0)).close()
    except OSError:  # no interface of this machine has the address
        return False
    return True


def _send_token() -> None:
    """Have `ray.init` send the user's token, if one exists and RAY_AUTH_MODE is not set."""
    try:
        from ray._private.authentication import authentication_token_setup as setup

        enable = setup.maybe_enable_token_auth_if_token_available
    except (ImportError, AttributeError):  # this Ray expects a token only if RAY_AUTH_MODE says so
        return
    enable(warn_if_disabled=False)
