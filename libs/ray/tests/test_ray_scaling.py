"""The number of replicas by the load that they report, and the options that Ray cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from midrib.server import BackboneSettings, Settings

config: Any = pytest.importorskip("ray.serve.config", reason="needs Ray Serve: build-support/ray makes it")

from midrib.ray.serve import ServeOptions, up  # noqa: E402 - it needs Ray
from midrib.ray.serve._options import check_environment, replica_settings  # noqa: E402 - it needs Ray
from midrib.ray.serve._scaling import by_device_time  # noqa: E402 - it needs Ray


def load(busy: list[float], backlog_s: list[float], *, replicas: int = 1, requests: int = 0) -> Any:
    """Return the context that Ray hands to a policy, for replicas with these loads.

    replicas: the number that runs, if none has reported a load.  requests: those that wait for a replica.
    """
    metrics = {"busy_share": dict(enumerate(busy)), "backlog_s": dict(enumerate(backlog_s))}
    return config.AutoscalingContext(
        deployment_id=None,
        deployment_name="Replica",
        app_name="midrib",
        current_num_replicas=len(busy) or replicas,
        target_num_replicas=len(busy) or replicas,
        running_replicas=[],
        total_num_requests=requests,
        total_queued_requests=0,
        aggregated_metrics=metrics if busy else None,
        raw_metrics=None,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=8,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=None,
    )


@pytest.mark.parametrize(
    ("busy", "backlog_s", "replicas"),
    [
        pytest.param([1.0], [0.1], 2, id="a device without pause"),
        pytest.param([1.0, 1.0, 1.0, 1.0], [0.0] * 4, 6, id="four devices without pause"),
        pytest.param([0.6, 0.7], [0.0, 0.0], 2, id="as busy as intended"),
        pytest.param([0.2, 0.2, 0.2], [0.0] * 3, 1, id="three devices that wait"),
        pytest.param([0.01], [0.0], 1, id="a little work"),
        pytest.param([0.0], [0.0], 0, id="no work"),
        pytest.param([0.5, 0.5], [0.0, 3.0], 3, id="a queue of seconds"),
        pytest.param([], [], 1, id="nothing reported"),
    ],
)
def test_replicas_for_a_load(busy: list[float], backlog_s: list[float], replicas: int) -> None:
    """As many as compute for 70 % of the time; one more while a replica has a second of work in its queue."""
    assert by_device_time(load(busy, backlog_s))[0] == replicas


@pytest.mark.parametrize(("requests", "replicas"), [(0, 0), (1, 1), (50, 1)])
def test_a_call_that_waits_brings_the_first_replica(requests: int, replicas: int) -> None:
    """If there are none: nothing reports the load of a device."""
    assert by_device_time(load([], [], replicas=0, requests=requests))[0] == replicas


def settings(**fields: Any) -> Settings:
    return Settings(**{"backbones": (BackboneSettings(name="mlp-128"),), "insecure": True, **fields})


def test_a_replica_computes_in_its_own_process_unless_the_file_says_otherwise() -> None:
    """Ray starts a process for each replica, and replaces it."""
    assert replica_settings(settings(), ServeOptions()).workers == "thread"
    assert replica_settings(settings(workers="process"), ServeOptions()).workers == "process"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"insecure": False}, "set tokens, or pass --insecure", id="open to the network"),
        pytest.param({"admin": True}, "would reach one replica only", id="admin"),
        pytest.param({"admin_port": 5}, "would reach one replica only", id="admin port"),
        pytest.param({"admin_port": 0}, "would reach one replica only", id="a free admin port"),
        pytest.param({"http_port": 8080}, "Ray's ingress passes gRPC only", id="http"),
        pytest.param({"port": 0}, "got port = 0", id="a free port"),
        pytest.param(
            {"tls_certificate": Path("c"), "tls_key": Path("k")}, "put a proxy with the certificate", id="tls"
        ),
        pytest.param({"backbones": ()}, "name a backbone", id="nothing to serve"),
    ],
)
def test_settings_that_cannot_hold_are_refused(fields: dict[str, Any], words: str) -> None:
    """The error comes before Ray is started."""
    with pytest.raises(ValueError, match=words):
        up(settings(**fields))


@pytest.mark.parametrize(("smallest", "largest"), [(0, 0), (2, 1), (-1, 1)])
def test_bounds_that_allow_no_replica_are_refused(smallest: int, largest: int) -> None:
    """At least one replica answers calls."""
    with pytest.raises(ValueError, match=f"got {smallest} to {largest} replicas"):
        ServeOptions(min_replicas=smallest, max_replicas=largest)


def test_a_serve_without_our_variables_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica says so as it starts; otherwise no call would ever reach it."""
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    with pytest.raises(RuntimeError, match="end it with `serve shutdown`"):
        check_environment()
