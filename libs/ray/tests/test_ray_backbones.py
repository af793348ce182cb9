"""Several backbones on Ray Serve, each a deployment with replicas, shares of the GPUs and a placement group."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tomli_w

from libs.ray.tests.ray_program import RayProgram
from libs.ray.tests.serve_load import NAME, Load, rows
from libs.ray.tests.serve_process import RAY_PORTS, free_ports, ray_environment
from midrib.oip.v2 import inference_pb2
from midrib.remote import Client, RemoteBackbone
from midrib.wire import BackboneNotFoundError, InvalidInputError

pytest.importorskip("ray.serve", reason="needs Ray Serve: build-support/ray makes an environment with it")

ITEMS = 10_000
PLACES = ("test/embedding/place-a", "test/embedding/place-b", "test/embedding/place-c")
RARE = "test/embedding/rare"
SHARE = {"CPU": 0.1, "GPU": 0.25}
TABLES: dict[str, Any] = {
    NAME: {"max_replicas": 2, "placement_group_bundles": [SHARE], "placement_group_strategy": "STRICT_PACK"},
    **{place: {"num_gpus": 0.5} for place in PLACES},
    RARE: {"min_replicas": 0},
}


class Deployments:
    """The program `backbone_deployments`, on free ports, and the processes of its replicas."""

    def __init__(self, folder: Path) -> None:
        port, http_port, *ports = free_ports(2 + len(RAY_PORTS))
        self._folder, self._port = folder, port
        self.write(scale=2.0)
        (folder / "tables.toml").write_text(tomli_w.dumps(TABLES))
        program = str(Path(__file__).with_name("backbone_deployments.py"))
        files = [str(folder / "midrib.toml"), str(folder / "tables.toml")]
        command = [sys.executable, program, *files, str(http_port)]
        self.program = RayProgram(command, folder / "log", ray_environment(ports))
        self.address = f"127.0.0.1:{port}"
        self.groups: list[Any] = []

    def wait_until_ready(self) -> None:
        """Return once clients are answered. Raises RuntimeError, with the log, if the program ends before."""
        self.groups = self.program.event("ready")["groups"]

    def write(self, *, scale: float) -> None:
        """Write the settings.  scale: of the backbone that multiplies."""
        fields = {"port": self._port, "imports": ["serve_backbone"], "warm_up_s": 0.0, "max_stream_age_s": 1.0}
        times = {"name": NAME, "arguments": {"seconds": 0.02, "scale": scale}, "aliases": ["twice"]}
        backbones = [times, *({"name": name} for name in (*PLACES, RARE))]
        text = tomli_w.dumps({**fields, "max_batch_rows": 16, "backbones": backbones})
        (self._folder / "midrib.toml").write_text(text)

    def replicas(self, name: str) -> set[int]:
        """Return the process ids of a backbone's replicas."""
        return set(self.program.members(f"ray::ServeReplica:midrib.{name.replace('/', '.')}:"))

    def until_replicas(self, name: str, count: int) -> None:
        """Return once a backbone has this number of replicas. Raises TimeoutError."""
        end = time.monotonic() + 120
        while len(replicas := self.replicas(name)) != count:
            if time.monotonic() > end:
                raise TimeoutError(f"after 120 s the replicas of {name} are {replicas}, expected {count}")
            time.sleep(0.25)


@pytest.fixture(scope="module")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    """Five backbones on two logical GPUs: three of half a GPU, one whose replicas have a quarter each, one without."""
    served = Deployments(tmp_path_factory.mktemp("ray"))
    try:
        served.wait_until_ready()
        yield served
    finally:
        served.program.stop()


def place(client: Client, name: str) -> tuple[int, int]:
    """Return the process id of the replica that answers, and the number of its GPU."""
    process, gpu = client.embed(name, np.ones((1, 1), np.float32))[0].tolist()
    return int(process), int(gpu)


def test_each_deployment_has_its_share_of_the_gpus(deployments: Deployments) -> None:
    """Each of three backbones has half a GPU, so that two of them share one. The fourth has a placement group."""
    with Client(deployments.address) as client:
        places = [place(client, name) for name in PLACES]
    assert [{process} for process, _ in places] == [deployments.replicas(name) for name in PLACES]
    assert sorted(Counter(gpu for _, gpu in places).values()) == [1, 2]
    assert deployments.groups == [{"0": SHARE}]


def test_calls_reach_the_deployment_of_their_backbone(deployments: Deployments) -> None:
    """By streams, unary calls and names of each kind; the list has all."""
    with Client(deployments.address) as client:
        names = {info.name: info.revision for info in client.list()}
        answers = [client.embed(name, rows(3)) for name in (NAME, "times", "twice", f"{NAME}@{names[NAME]}")]
        assert [answer.tolist() for answer in answers] == [(2 * rows(3)).tolist()] * 4
        assert client.describe(PLACES[1]).revision == names[PLACES[1]]
    assert set(names) == {NAME, RARE, *PLACES}


def test_gradients_and_the_open_inference_protocol(deployments: Deployments) -> None:
    """Unary calls, and a plain stub without any header of ours."""
    import torch

    inputs = torch.ones(3, 2, requires_grad=True)
    RemoteBackbone(f"grpc://{deployments.address}/{NAME}")(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.tolist() == [[2.0, 2.0]] * 3
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=(1, 2))
    request = inference_pb2.ModelInferRequest(
        model_name=NAME, inputs=[tensor], raw_input_contents=[rows(1).tobytes()]
    ).SerializeToString()
    with grpc.insecure_channel(deployments.address) as channel:
        infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        index: Any = channel.unary_unary("/inference.GRPCInferenceService/RepositoryIndex")
        answer = inference_pb2.ModelInferResponse.FromString(infer(request, timeout=60))
        models = inference_pb2.RepositoryIndexResponse.FromString(index(b"", timeout=60)).models
    assert list(answer.raw_output_contents) == [(2 * rows(1)).tobytes()]
    assert {model.name for model in models} == {NAME, RARE, *PLACES}


def test_health_is_that_of_the_ingress_or_of_a_backbone(deployments: Deployments) -> None:
    """gRPC's health service answers for the empty name and for each backbone's name."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(deployments.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        services = ["", NAME, PLACES[0]]
        states = [stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60) for service in services]
        first = next(iter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)))
    assert {state.status for state in [*states, first]} == {health_pb2.HealthCheckResponse.SERVING}


def test_errors_keep_their_reason(deployments: Deployments) -> None:
    """Those of the ingress, and those of a replica."""
    with Client(deployments.address) as client:
        with pytest.raises(BackboneNotFoundError, match="did you mean test/embedding/place-"):
            client.embed("place-d", rows(1))
        with pytest.raises(InvalidInputError, match=r"has shape \[1, 3\]"):
            client.embed(NAME, np.ones((1, 3), np.float32))


def test_a_deployment_follows_its_load_and_loses_nothing(deployments: Deployments) -> None:
    """The other backbones keep their replicas."""
    before = [deployments.replicas(name) for name in PLACES]
    light = Load(deployments.address, callers=2, pause_s=0.2)
    heavy = Load(deployments.address)
    deployments.until_replicas(NAME, 2)
    answers = heavy.stop()
    deployments.until_replicas(NAME, 1)
    assert min(answers, light.stop()) > 0
    assert [deployments.replicas(name) for name in PLACES] == before


def test_killed_replicas_cost_no_answer(deployments: Deployments) -> None:
    """All replicas of a backbone are killed under load. Another backbone answers meanwhile, by the same process."""
    load = Load(deployments.address)
    victims = deployments.replicas(NAME)
    with Client(deployments.address) as client:
        before = place(client, PLACES[0])
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        assert place(client, PLACES[0]) == before
    load.wait_for(ITEMS)
    assert load.stop() >= ITEMS
    assert not victims & deployments.replicas(NAME)


def test_a_killed_ingress_costs_no_answer(deployments: Deployments) -> None:
    """Ray starts the process that passes calls on again; the clients send what had no answer."""
    load = Load(deployments.address)
    [victim] = deployments.program.members("ray::ServeReplica:midrib:IngressReplica")
    os.kill(victim, signal.SIGKILL)
    load.wait_for(ITEMS)
    assert load.stop() >= ITEMS
    assert victim not in deployments.program.members("ray::ServeReplica:midrib:IngressReplica")


def test_a_backbone_without_calls_has_no_replica(deployments: Deployments) -> None:
    """The next call waits until one has started."""
    deployments.until_replicas(RARE, 0)
    with Client(deployments.address, timeout=120) as client:
        assert client.embed(RARE, rows(1)).tolist() == [[0.0, 2.0]]


def test_another_revision_of_one_backbone(deployments: Deployments) -> None:
    """Its replicas are replaced one after the other. The replicas of the others stay."""
    with Client(deployments.address, timeout=60) as client:
        before = [place(client, name) for name in PLACES]
        deployments.write(scale=3.0)
        deployments.program.enter()
        assert place(client, PLACES[0]) == before[0]
        deployments.wait_until_ready()
        for _ in iter(lambda: client.embed(NAME, np.ones((1, 2), np.float32))[0, 0], 3.0):
            pass
        assert [place(client, name) for name in PLACES] == before
