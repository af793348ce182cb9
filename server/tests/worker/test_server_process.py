"""The server's process beside its workers: without torch, small, and ready to listen at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import decode_tensor, encode_tensor

MLP = "template/classification/mlp-128-256"
MINILM = "text/embedding/all-minilm-l6-v2"
EFFICIENTNET = "image/classification/efficientnet-lite0"
LOUDNESS = "audio/embedding/loudness"


@dataclass(frozen=True)
class Served:
    """A `midrib serve`. libraries: those it had mapped when it listened.  children: its processes at that time."""

    process: subprocess.Popen[str]
    address: str
    libraries: str
    children: list[str]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """`midrib serve` with a backbone of each kind of input, each in a worker process."""
    backbones = [f"{MLP}?num_features=4", MINILM, EFFICIENTNET, LOUDNESS]
    command = [sys.executable, "-m", "midrib.server.cli", "serve", *backbones, "--import", "sound"]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "MIDRIB_WORKERS": "process",
        "MIDRIB_WARM_UP_S": "0",
        "MIDRIB_THREADS": "1",
    }
    with subprocess.Popen(
        [*command, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["address"]
        libraries, children = Path(f"/proc/{process.pid}/maps").read_text(), commands_of_children(process.pid)
        json.loads(process.stdout.readline())
        yield Served(process, address, libraries, children)
        process.send_signal(signal.SIGTERM)


def commands_of_children(pid: int) -> list[str]:
    children = [thread / "children" for thread in Path(f"/proc/{pid}/task").iterdir()]
    pids = [child for path in children for child in path.read_text().split()]
    return [Path(f"/proc/{child}/cmdline").read_text() for child in pids]


def embed(served: Served, backbone: str, **message: object) -> list[int]:
    """Return the shape of an embedding."""
    request = embedding_pb2.EmbedRequest(backbone=backbone, input=embedding_pb2.Input(**message))  # type: ignore[arg-type]
    with grpc.insecure_channel(served.address) as channel:
        reply = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(request, timeout=60)
    return list(decode_tensor(reply.embedding).shape)


def test_it_serves_every_kind_of_input_without_torch(served: Served) -> None:
    """Descriptions, limits and revisions come from the workers; tokenizer, decoder and resampler need no torch."""
    tensor = encode_tensor(np.zeros((3, 4), np.float32))
    assert embed(served, MLP, tensor=tensor) == [3, 256]
    texts = embedding_pb2.Texts(texts=["one text", "and another"])
    assert embed(served, MINILM, texts=texts) == [2, 384]
    encoded = BytesIO()
    Image.new("RGB", (40, 30), "green").save(encoded, "PNG")
    images = embedding_pb2.Images(encoded=[encoded.getvalue()])
    assert embed(served, EFFICIENTNET, images=images) == [1, 1280]
    clip = encode_tensor(np.sin(np.arange(22_050, dtype=np.float32)))
    assert embed(served, LOUDNESS, audio=embedding_pb2.AudioClips(clips=[clip], rate=22_050)) == [1, 2]
    assert "torch" not in Path(f"/proc/{served.process.pid}/maps").read_text()


def test_it_is_small(served: Served) -> None:
    """Below 120 MiB, also if its workers hold more."""
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    resident_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert resident_kib < 120 * 1024


def test_it_listens_before_slow_imports(served: Served) -> None:
    """It imports neither torch nor a loader's libraries before it listens."""
    assert "grpc" in served.libraries
    assert [name for name in ("torch", "tokenizers", "PIL", "scipy") if f"/{name}/" in served.libraries] == []


def test_torch_is_imported_beside_it_from_the_beginning(served: Served) -> None:
    """The first load would wait for the import otherwise, which takes more than a second."""
    assert any("_worker.launch.zygote" in command for command in served.children)
