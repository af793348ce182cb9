"""Tokens on Ray Serve with a deployment for each backbone: the ingress and the replicas check them."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import grpc
import pytest
import tomli_w

from libs.ray.tests.serve_load import NAME, rows
from libs.ray.tests.serve_process import ServeProcess
from midrib.remote import Client
from midrib.wire import BackboneNotFoundError, UnauthenticatedError

pytest.importorskip("ray.serve", reason="needs Ray Serve: build-support/ray makes an environment with it")

TOKEN = "of a caller that may embed"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """One backbone behind the ingress."""
    folder = tmp_path_factory.mktemp("ray")
    entry = {"name": "caller", "sha256": sha256(TOKEN.encode()).hexdigest(), "scopes": ["embed", "read"]}
    (folder / "tokens.toml").write_text(tomli_w.dumps({"tokens": [entry]}))
    (folder / "tables.toml").write_text(tomli_w.dumps({NAME: {"num_cpus": 0.1}}))
    options = ["--backbone-options", str(folder / "tables.toml")]
    settings = {"tokens": str(folder / "tokens.toml"), "public_health": False, "max_stream_age_s": 1.0}
    process = ServeProcess(folder, {"seconds": 0.0, "scale": 2.0}, options, **settings)
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.stop()


@pytest.mark.parametrize("name", [NAME, "test/embedding/another"])
@pytest.mark.parametrize("token", [None, "a wrong one"])
def test_a_caller_without_a_token_learns_no_name(served: ServeProcess, name: str, token: str | None) -> None:
    """The error of an unknown name lists the names that are served."""
    with Client(served.address, token=token) as client, pytest.raises(UnauthenticatedError, match="token") as caught:
        client.embed(name, rows(1))
    assert NAME not in str(caught.value)


def test_the_health_of_the_ingress_needs_a_token_too(served: ServeProcess) -> None:
    """The setting `public_health` is off."""
    with grpc.insecure_channel(served.address) as channel:
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError, match="this server wants a token"):
            check(b"", timeout=60)
        assert check(b"", timeout=60, metadata=(("authorization", f"Bearer {TOKEN}"),))


def test_a_watch_ends_after_the_age_of_a_stream(served: ServeProcess) -> None:
    """Ray waits for the calls of a replica that leaves."""
    with grpc.insecure_channel(served.address) as channel:
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        states = watch(b"", timeout=60, metadata=(("authorization", f"Bearer {TOKEN}"),))
        assert next(states)
        with pytest.raises(grpc.RpcError, match="a Watch ends after 1 s"):
            next(states)


def test_a_token_is_passed_on(served: ServeProcess) -> None:
    """Also with an unknown name."""
    with Client(served.address, token=TOKEN) as client:
        assert client.embed(NAME, rows(1)).tolist() == (2 * rows(1)).tolist()
        with pytest.raises(BackboneNotFoundError, match="no backbone 'test/embedding/another' is served here"):
            client.embed("test/embedding/another", rows(1))
