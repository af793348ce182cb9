"""Attacks on a real server: without token, with a wrong one, beyond a scope, or the loopback."""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from midrib.registry import AbstractRegistry
from midrib.server._admission.tokens import AccessTokens, Scope, new_token
from midrib.server.cli import main
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, backbone_pb2_grpc, embedding_pb2, embedding_pb2_grpc
from midrib.wire import encode_tensor, status_to_error

Code = grpc.StatusCode
ROW = embedding_pb2.Input(tensor=encode_tensor(np.ones((1, 2), np.float32)))
EMBED = embedding_pb2.EmbedRequest(backbone="linear", input=ROW)
SLOW = embedding_pb2.EmbedRequest(
    backbone="gate", input=embedding_pb2.Input(tensor=encode_tensor(np.full((1, 2), 13, np.float32)))
)


class Tenants:
    """A token file of three tenants, and their secrets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reader, reader = new_token("reader", [Scope.READ])
        self.trainer, trainer = new_token("trainer", [Scope.READ, Scope.EMBED])
        self.admin, admin = new_token("admin", [Scope.ADMIN])
        self.small, small = new_token("small", [Scope.EMBED])
        path.write_text(reader + trainer + admin + small + "max_in_flight_items = 1\n")


@pytest.fixture()
def tenants(tmp_path: Path) -> Tenants:
    return Tenants(tmp_path / "tokens.toml")


@pytest.fixture()
def guarded(front: str, tenants: Tenants, test_registry: AbstractRegistry) -> Iterator[RunningServer]:
    with serving("gate", "linear", registry=test_registry, tokens=tenants.path, admin_port=0) as running:
        yield running


@pytest.fixture()
def opened(guarded: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(guarded.address) as channel:
        yield channel


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


def embed(channel: grpc.Channel, token: str | None, request: embedding_pb2.EmbedRequest = EMBED) -> Any:
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    return stub.Embed(request, timeout=10, metadata=None if token is None else bearer(token))


def reason(error: Any) -> tuple[grpc.StatusCode, str]:
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return error.code(), status_to_error(status_pb2.Status.FromString(details)).reason


def call_every_service(channel: grpc.Channel) -> Iterator[Any]:
    """One call of each service, each without a token."""
    backbones: Any = backbone_pb2_grpc.BackboneServiceStub(channel)
    embedding: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    yield lambda: backbones.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=10)
    yield lambda: backbones.LoadBackbone(backbone_pb2.LoadBackboneRequest(name="linear"), timeout=10)
    yield lambda: embedding.Embed(EMBED, timeout=10)
    yield lambda: list(embedding.EmbedStream(iter([embedding_pb2.EmbedStreamRequest()]), timeout=10))
    yield lambda: list(reflection.ServerReflectionInfo(iter([question]), timeout=10))
    live: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
    yield lambda: live(b"", timeout=10)


def test_no_service_answers_without_a_token(opened: grpc.Channel) -> None:
    """Reflection and the standard protocol included."""
    refusals = []
    for call in call_every_service(opened):
        with pytest.raises(grpc.RpcError, match="send `authorization: Bearer TOKEN`") as caught:
            call()
        refusals.append(reason(caught.value))
    assert refusals == [(Code.UNAUTHENTICATED, "UNAUTHENTICATED")] * 6


def test_health_is_public_unless_it_is_not(
    opened: grpc.Channel, tenants: Tenants, test_registry: AbstractRegistry
) -> None:
    """A load balancer has no token; `public_health = false` closes it."""
    sent = health_pb2.HealthCheckRequest()
    stub: Any = health_pb2_grpc.HealthStub(opened)
    assert stub.Check(sent, timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    with (
        serving(registry=test_registry, tokens=tenants.path, public_health=False) as closed,
        grpc.insecure_channel(closed.address) as channel,
    ):
        private: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError, match="wants a token"):
            private.Check(sent, timeout=10)


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Basic abc", "Bearer wrong", "bearer " + "x" * 4000],
    ids=["nothing", "empty", "other scheme", "unknown", "long"],
)
def test_a_wrong_token_is_refused(opened: grpc.Channel, header: str) -> None:
    """No error repeats any part of a wrong token."""
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(opened)
    with pytest.raises(grpc.RpcError, match="token") as caught:
        stub.Embed(EMBED, timeout=10, metadata=[("authorization", header)])
    assert reason(caught.value) == (Code.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert "x" * 100 not in str(caught.value.details())


def test_a_scope_allows_its_calls_and_no_others(opened: grpc.Channel, tenants: Tenants) -> None:
    """A reader lists and may not embed; a trainer embeds and may not load."""
    backbones: Any = backbone_pb2_grpc.BackboneServiceStub(opened)
    listed = backbones.ListBackbones(backbone_pb2.ListBackbonesRequest(), timeout=10, metadata=bearer(tenants.reader))
    assert len(listed.backbones) == 2
    assert list(embed(opened, tenants.trainer).embedding.shape) == [1, 3]
    with pytest.raises(grpc.RpcError, match="token 'reader' lacks the scope 'embed'") as caught:
        embed(opened, tenants.reader)
    assert reason(caught.value) == (Code.PERMISSION_DENIED, "PERMISSION_DENIED")
    with pytest.raises(grpc.RpcError, match="token 'trainer' lacks the scope 'admin'"):
        backbones.LoadBackbone(
            backbone_pb2.LoadBackboneRequest(name="linear"), timeout=10, metadata=bearer(tenants.trainer)
        )


def test_loading_sits_on_an_address_of_its_own(guarded: RunningServer, opened: grpc.Channel, tenants: Tenants) -> None:
    """Even an admin loads nothing on the main port, and the admin port requires the token too."""
    seed = {"seed": backbone_pb2.Argument(int_value=5)}
    sent = backbone_pb2.LoadBackboneRequest(name="linear", arguments=seed, replace=True)
    main_port: Any = backbone_pb2_grpc.BackboneServiceStub(opened)
    with pytest.raises(grpc.RpcError, match="is not allowed here"):
        main_port.LoadBackbone(sent, timeout=10, metadata=bearer(tenants.admin))
    assert guarded.server.admin_address is not None
    with grpc.insecure_channel(guarded.server.admin_address) as channel:
        admin_port: Any = backbone_pb2_grpc.BackboneServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="wants a token"):
            admin_port.LoadBackbone(sent, timeout=10)
        assert admin_port.LoadBackbone(sent, timeout=20, metadata=bearer(tenants.admin)).backbone.num_features == 3


def test_tokens_are_rotated_by_a_reload(guarded: RunningServer, opened: grpc.Channel, tenants: Tenants) -> None:
    """The old one is refused, the new one is accepted."""
    renewed, entry = new_token("trainer", [Scope.EMBED])
    tenants.path.write_text(entry)
    guarded.server.reload()
    assert list(embed(opened, renewed).embedding.shape) == [1, 3]
    with pytest.raises(grpc.RpcError, match="not known here"):
        embed(opened, tenants.trainer)


@pytest.mark.parametrize("kept", [pytest.param(kept, id=f"{kept} characters") for kept in (0, 5, 30, 90, 130, 300)])
def test_half_a_token_file_changes_nothing(
    guarded: RunningServer,
    opened: grpc.Channel,
    tenants: Tenants,
    caplog: pytest.LogCaptureFixture,
    kept: int,
) -> None:
    """The error is logged, and the present tokens stay valid."""
    tenants.path.write_text(tenants.path.read_text()[:kept])
    guarded.server.reload()
    assert "the present tokens stay in force" in caplog.text
    assert list(embed(opened, tenants.trainer).embedding.shape) == [1, 3]


def test_a_withdrawn_token_ends_its_open_streams(
    guarded: RunningServer, opened: grpc.Channel, tenants: Tenants
) -> None:
    """They end at their next item."""
    messages = queue.SimpleQueue[embedding_pb2.EmbedStreamRequest]()
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(opened)
    stream = stub.EmbedStream(iter(messages.get, None), timeout=20, metadata=bearer(tenants.trainer))
    messages.put(embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone="linear")))
    messages.put(embedding_pb2.EmbedStreamRequest(item=embedding_pb2.Item(id=1, input=ROW)))
    assert [next(stream).WhichOneof("message") for _ in range(2)] == ["opened", "result"]
    tenants.path.write_text(new_token("another", [Scope.EMBED])[1])
    guarded.server.reload()
    messages.put(embedding_pb2.EmbedStreamRequest(item=embedding_pb2.Item(id=2, input=ROW)))
    with pytest.raises(grpc.RpcError, match="it has been withdrawn") as caught:
        next(stream)
    assert reason(caught.value) == (Code.UNAUTHENTICATED, "UNAUTHENTICATED")


def test_a_token_in_the_place_of_its_hash_is_not_logged(
    guarded: RunningServer, opened: grpc.Channel, tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    """The likeliest mistake in the file; the tokens stay as they were."""
    tenants.path.write_text(f'[[tokens]]\nname = "x"\nsha256 = "{tenants.admin}"\nscopes = ["embed"]\n')
    guarded.server.reload()
    assert "the token file cannot be read" in caplog.text
    assert tenants.admin not in caplog.text
    assert list(embed(opened, tenants.trainer).embedding.shape) == [1, 3]


def test_two_authorizations_are_none(opened: grpc.Channel, tenants: Tenants) -> None:
    """A proxy before the server may have judged by the other one."""
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(opened)
    with pytest.raises(grpc.RpcError, match="once"):
        stub.Embed(EMBED, timeout=10, metadata=[*bearer("other"), *bearer(tenants.trainer)])


def test_one_tenant_cannot_take_anothers_room(opened: grpc.Channel, tenants: Tenants, gate: Any) -> None:
    """A tenant at its own limit is refused, the others are served."""
    stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(opened)
    waiting = stub.Embed.future(SLOW, timeout=20, metadata=bearer(tenants.small))
    assert gate.passing.wait(10)
    with pytest.raises(grpc.RpcError, match="1 items of token 'small' are in flight") as caught:
        embed(opened, tenants.small)
    assert reason(caught.value) == (Code.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert list(embed(opened, tenants.trainer).embedding.shape) == [1, 3]
    gate.opened.set()
    assert waiting.code() is Code.OK


def test_a_token_is_stored_as_its_hash_only(tenants: Tenants) -> None:
    """The file has only hashes, so that nobody can call with its content."""
    assert all(secret not in tenants.path.read_text() for secret in (tenants.reader, tenants.trainer, tenants.admin))


def test_a_token_is_compared_with_every_hash_in_constant_time(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of the check depends neither on the right part of a token nor on its holder."""
    compared: list[str] = []

    def compare_digest(token_digest: str, digest: str) -> bool:
        compared.append(token_digest)
        return token_digest == digest

    tokens = AccessTokens(tenants.path)
    monkeypatch.setattr("hmac.compare_digest", compare_digest)
    assert tokens.tenant([f"Bearer {tenants.reader}"], Scope.READ).name == "reader"
    assert len(set(compared)) == 4


def test_the_command_makes_a_token_that_works(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    test_registry: AbstractRegistry,
) -> None:
    """The secret on stdout, the entry on stderr."""
    monkeypatch.setattr(sys, "argv", ["midrib", "token", 'the "A" team', "--scope", "embed"])
    with pytest.raises(SystemExit, match="0"):
        main()
    said = capsys.readouterr()
    path = tmp_path / "tokens.toml"
    path.write_text(said.err)
    with (
        serving("linear", registry=test_registry, tokens=path) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        assert list(embed(channel, said.out.strip()).embedding.shape) == [1, 3]


def test_secrets_are_not_in_the_printed_config(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed settings have only the paths of the secrets."""
    monkeypatch.setenv("MIDRIB_TOKENS", str(tenants.path))
    monkeypatch.setattr(sys, "argv", ["midrib", "serve", "mlp-128", "--print-config"])
    with pytest.raises(SystemExit, match="0"):
        main()
    printed = capsys.readouterr().out
    assert "tokens.toml" in printed
    assert json.dumps(tenants.admin) not in printed
