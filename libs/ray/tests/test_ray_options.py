"""The file of each backbone's options, and the name that a call asks for. Needs no Ray."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from libs.ray.tests.serve_process import RAY_PORTS, free_ports
from midrib.oip.v2 import inference_pb2
from midrib.ray._dataset import _divided
from midrib.ray.cli import _until_end
from midrib.ray.serve import ServeOptions, read_backbone_options, up
from midrib.ray.serve._request_names import requested_name
from midrib.ray.serve._up import _check_ports
from midrib.server import BackboneSettings, Settings
from midrib.v1 import backbone_pb2, embedding_pb2, tensor_pb2
from midrib.wire import InvalidInputError

NAME = "image/embedding/vit-tiny"
INPUT = embedding_pb2.Input(tensor=tensor_pb2.Tensor(shape=[1, 2], data=b"12345678"))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("Embed", embedding_pb2.EmbedRequest(backbone=NAME, input=INPUT)),
        ("EmbedStream", embedding_pb2.EmbedStreamRequest(open=embedding_pb2.Open(backbone=NAME, revision="ab"))),
        ("Backward", embedding_pb2.BackwardRequest(backbone=NAME)),
        ("GetBackbone", backbone_pb2.GetBackboneRequest(name=NAME)),
        ("ModelInfer", inference_pb2.ModelInferRequest(model_name=NAME, id="7")),
        ("RepositoryModelLoad", inference_pb2.RepositoryModelLoadRequest(repository_name="r", model_name=NAME)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_name_is_read_from_the_first_message(method: str, message: Any) -> None:
    """Also if other fields come first, as protobuf allows."""
    content = message.SerializeToString()
    behind = b"\x78\x01\x7d\x00\x00\x00\x00\x79" + bytes(8) + b"\x7a\x03abc"  # fields 15 of each wire type
    assert requested_name(f"/any.Service/{method}", content) == NAME
    assert requested_name(f"/any.Service/{method}", behind + content) == NAME


@pytest.mark.parametrize("method", ["ListBackbones", "ServerLive", "RepositoryIndex", "Check"])
def test_a_call_may_have_no_name(method: str) -> None:
    """It is about all backbones."""
    assert requested_name(f"/any.Service/{method}", b"") == ""


@pytest.mark.parametrize(
    ("message", "words"),
    [
        pytest.param(b"\x0a\x05ab", "a field ends after byte 7, expected at most 4", id="cut"),
        pytest.param(b"\x0a", "index out of range", id="without a size"),
        pytest.param(b"\x0a\x02\xff\xff", "can't decode", id="not UTF-8"),
        pytest.param(b"\x13", "got a field of wire type 3", id="a group"),
        pytest.param(b"\x78\x01" * 257, "it has more than 256 fields", id="many fields"),
        pytest.param(b"\x12" + b"\xff" * 11, "more than ten bytes", id="an endless number"),
    ],
)
def test_bytes_that_are_not_a_message_are_refused(message: bytes, words: str) -> None:
    """They are refused before they take time."""
    with pytest.raises(InvalidInputError, match=words):
        requested_name("/midrib.v1.EmbeddingService/Embed", message)


def test_a_table_changes_the_options_of_its_backbone(tmp_path: Path) -> None:
    """The other options are those of the command."""
    path = tmp_path / "ray.toml"
    path.write_text(f'["{NAME}"]\nnum_gpus = 0.5\nmin_replicas = 2\nplacement_group_bundles = [{{GPU = 0.5}}]\n')
    options = read_backbone_options(path, ServeOptions(num_cpus=2, drain_s=3))
    assert options == {
        NAME: ServeOptions(2, 2, 2, 0.5, placement_group_bundles=({"GPU": 0.5},), drain_s=3),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("[", "cannot be read: ", id="not TOML"),
        pytest.param('["a/b"]\ngpus = 1', r'\["a/b"\] in .* has gpus, expected some of min_replicas', id="unknown key"),
        pytest.param('["a/b"]\nnum_gpus = "x"', "num_gpus: Input should be a valid number", id="wrong type"),
        pytest.param('["a/b"]\nmin_replicas = -1', "got -1 to 1 replicas", id="bounds"),
        pytest.param("a = 1", r'\["a"\] in .* is 1, expected a table', id="not a table"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """With its path, and the table."""
    path = tmp_path / "ray.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_backbone_options(path, ServeOptions())


def test_options_of_a_backbone_that_is_not_served_are_refused() -> None:
    """Before Ray is started: a misspelt name would be served without its GPU."""
    settings = Settings(backbones=(BackboneSettings(name="a/b/c"),), insecure=True)
    with pytest.raises(ValueError, match="got options for the backbones a/b/x, expected some of the settings' a/b/c"):
        up(settings, backbone_options={"a/b/x": ServeOptions()})


@pytest.mark.parametrize("variable", ["RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT"])
def test_a_port_that_is_in_use_is_an_error_before_ray_starts(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second `midrib ray up` on a machine would otherwise fail after a minute, in HAProxy."""
    port, http_port, *ports = free_ports(2 + len(RAY_PORTS))
    for name, other in zip(RAY_PORTS, ports, strict=True):
        monkeypatch.setenv(name, str(other))
    with socket.create_server(("", 0)) as used:
        monkeypatch.setenv(variable, str(used.getsockname()[1]))
        with pytest.raises(RuntimeError, match=f"cannot listen on port .* in use.*or set another {variable}"):
            _check_ports(Settings(port=port), ServeOptions(http_port=http_port))


def test_an_error_of_ray_does_not_end_the_replicas(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The errors of Ray, as of a controller that has just ended, derive from Exception only. SIGTERM still ends."""

    class RayActorError(Exception):
        pass

    def send_signals(number: int, handler: Any) -> None:
        if number == signal.SIGHUP:  # the last of the handlers is set
            handler(signal.SIGHUP, None)
            handler(signal.SIGTERM, None)

    def fail() -> None:
        raise RayActorError("the controller is unavailable")

    monkeypatch.setattr(signal, "signal", send_signals)
    _until_end(fail)
    assert "the changed file is not served: the controller is unavailable" in capsys.readouterr().err


class DatasetOfAnotherRay:
    """A dataset whose plan cannot be found where Ray 2.60 has it."""

    def repartition(self, target_num_rows_per_block: int) -> DatasetOfAnotherRay:
        """Return another dataset, in blocks of at most that many rows."""
        return DatasetOfAnotherRay()


def test_another_version_of_ray_keeps_its_blocks() -> None:
    """Blocks that are divided by tasks with a CPU each could wait for ever."""
    dataset: Any = DatasetOfAnotherRay()
    assert _divided(dataset, 4) is dataset
