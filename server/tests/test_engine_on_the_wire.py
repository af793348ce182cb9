"""The engine's promises, seen by plain generated stubs: shares, cancelled items, swaps, memory, finite rows.

Each holds for replicas in threads of the server and for replicas in worker processes.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2, backbone_pb2_grpc, embedding_pb2, embedding_pb2_grpc
from midrib.v1.embedding_pb2 import EmbedStreamRequest
from midrib.wire import decode_tensor, encode_tensor

Serve = Callable[..., AbstractContextManager[RunningServer]]
LARGE = 1000.0
# Each channel has its own connection, so that the kernel divides them among the front processes.
SEPARATE = [("grpc.use_local_subchannel_pool", 1)]


@dataclass(frozen=True)
class Recorder:
    """The files of the backbone `recorder`: the values that it has computed, and the gate of its 13s."""

    folder: Path

    def wait(self) -> None:
        """Wait until a row of 13s is at the gate."""
        listener = threading.Event()
        for _ in range(4000):
            if (self.folder / "waiting").exists():
                return
            listener.wait(0.005)
        pytest.fail("no row reached the gate")

    def open(self) -> None:
        """Open the gate."""
        (self.folder / "open").touch()

    def computed(self) -> list[float]:
        """Return the values, in the order in which they were computed."""
        return [float(line) for line in (self.folder / "computed").read_text().splitlines()]


@pytest.fixture(scope="module", params=["thread", "process"])
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """`serving` with one kind of workers; a fresh process finds the backbones by the name of their module."""
    folder = str(Path(__file__).parent)
    sys.path.append(folder)
    registry = importlib.import_module("engine_backbones").REGISTRY

    def serve_them(*backbones: str | dict[str, Any], **settings: Any) -> AbstractContextManager[RunningServer]:
        return serving(*backbones, registry=registry, workers=request.param, **settings)

    yield serve_them
    sys.path.remove(folder)


@pytest.fixture()
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    files = Recorder(tmp_path)
    yield files
    files.open()


@pytest.fixture()
def one_at_a_time(front: str, serve: Serve, recorder: Recorder) -> Iterator[RunningServer]:
    """A server whose device computes one row after the other, over each front."""
    requested = {"name": "recorder", "arguments": {"folder": str(recorder.folder)}}
    with serve(requested, max_batch_rows=1, front=front) as running:
        yield running


def rows(value: float, count: int = 1, width: int = 2) -> embedding_pb2.Input:
    return embedding_pb2.Input(tensor=encode_tensor(np.full((count, width), value, np.float32)))


def request(value: float, count: int = 1, *, backbone: str = "recorder", width: int = 2) -> embedding_pb2.EmbedRequest:
    return embedding_pb2.EmbedRequest(backbone=backbone, input=rows(value, count, width))


def stub_of(channel: grpc.Channel) -> Any:
    return embedding_pb2_grpc.EmbeddingServiceStub(channel)


def talk(first: float, count: int, priority: embedding_pb2.Priority) -> Iterator[EmbedStreamRequest]:
    yield EmbedStreamRequest(open=embedding_pb2.Open(backbone="recorder", priority=priority))
    for number in range(count):
        yield EmbedStreamRequest(item=embedding_pb2.Item(id=number, input=rows(first + number)))


def until(running: RunningServer, accepted: int) -> None:
    """Wait until this number of items has been accepted."""
    counts = running.server.catalogue.entry("recorder").ready().served.batcher.counts
    listener = threading.Event()
    for _ in range(4000):
        if counts.accepted >= accepted:
            return
        listener.wait(0.005)
    pytest.fail(f"{counts.accepted} of {accepted} items were accepted")


def test_a_priority_is_a_share_on_the_wire(one_at_a_time: RunningServer, recorder: Recorder) -> None:
    """Bulk came first and is not starved; of the busy device interactive work still gets sixteen times as much."""
    with ExitStack() as stack:
        new = partial(grpc.insecure_channel, one_at_a_time.address, options=SEPARATE)
        first, second, third = (stub_of(stack.enter_context(new())) for _ in range(3))
        busy = [first.Embed.future(request(13), timeout=60) for _ in range(2)]
        recorder.wait()
        bulk = second.EmbedStream(talk(LARGE, 40, embedding_pb2.PRIORITY_BULK), timeout=60)
        until(one_at_a_time, 42)
        interactive = third.EmbedStream(talk(2 * LARGE, 32, embedding_pb2.PRIORITY_INTERACTIVE), timeout=60)
        until(one_at_a_time, 74)
        recorder.open()
        assert (len(list(bulk)), len(list(interactive)), len([call.result() for call in busy])) == (41, 33, 2)
    computed = recorder.computed()
    places = [place for place, value in enumerate(computed) if value >= 2 * LARGE]
    assert places[-1] <= 32 + 4
    assert computed[0] < 2 * LARGE


def test_cancelled_and_expired_calls_never_reach_the_device(one_at_a_time: RunningServer, recorder: Recorder) -> None:
    """Their callers left while they waited; the counters prove it, and so does the device."""
    counts = one_at_a_time.server.catalogue.entry("recorder").ready().served.batcher.counts
    with grpc.insecure_channel(one_at_a_time.address) as channel:
        stub = stub_of(channel)
        busy = [stub.Embed.future(request(13), timeout=60) for _ in range(2)]
        recorder.wait()
        until(one_at_a_time, 2)
        evictions = [stub.Embed.future(request(LARGE + number), timeout=60) for number in range(3)]
        late = stub.Embed.future(request(LARGE + 10), timeout=0.5)
        staying = stub.Embed.future(request(LARGE + 20), timeout=60)
        until(one_at_a_time, 7)
        assert [call.cancel() for call in evictions] == [True] * 3
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        recorder.open()
        assert decode_tensor(staying.result().embedding).tolist() == [[2 * (LARGE + 20)] * 2]
        assert [call.code() for call in busy] == [grpc.StatusCode.OK] * 2
    assert (recorder.computed(), counts.cancelled + counts.expired) == ([LARGE + 20], 4)


def test_a_swap_under_load_never_mixes_two_revisions(serve: Serve) -> None:
    """Each answer is wholly of the revision that it names; calls in between may be refused as retriable."""
    answered: set[tuple[str, float]] = set()
    codes: set[grpc.StatusCode] = set()
    done = threading.Event()

    def ask(stub: Any) -> None:
        while not done.is_set():
            call = stub.Embed.future(request(1, 4, backbone="scaled", width=1), timeout=30)
            codes.add(call.code())
            if call.code() is grpc.StatusCode.OK:
                values = set(decode_tensor(call.result().embedding).ravel().tolist())
                answered.update((call.result().revision, value) for value in values)

    with serve("scaled", admin=True, warm_up_s=0) as running, grpc.insecure_channel(running.address) as channel:
        admin: Any = backbone_pb2_grpc.BackboneServiceStub(channel)
        callers = [threading.Thread(target=ask, args=(stub_of(channel),)) for _ in range(4)]
        for caller in callers:
            caller.start()
        expected = set()
        for factor in (2, 3, 4):
            arguments = {"factor": backbone_pb2.Argument(int_value=factor)}
            message = backbone_pb2.LoadBackboneRequest(name="scaled", arguments=arguments, replace=True)
            revision = admin.LoadBackbone(message, timeout=30).backbone.revision
            stub_of(channel).Embed(request(1, backbone="scaled", width=1), timeout=30)
            expected.add((revision, float(factor)))
        done.set()
        for caller in callers:
            caller.join(30)
    first = {(revision, value) for revision, value in answered if value == 1}
    assert len(first) <= 1
    assert answered - first <= expected
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


def test_rows_that_do_not_fit_into_the_device_are_answered_in_halves(serve: Serve) -> None:
    """If a batch does not fit into memory, the server halves it; an item whose half does not fit fails alone."""
    with serve("small", warm_up_s=0) as running, grpc.insecure_channel(running.address) as channel:
        fits = stub_of(channel).Embed(request(1, 4, backbone="small"), timeout=10)
        with pytest.raises(grpc.RpcError, match="the server's log explains error") as caught:
            stub_of(channel).Embed(request(1, 9, backbone="small"), timeout=10)
    assert decode_tensor(fits.embedding).tolist() == [[2, 2]] * 4
    assert caught.value.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "-inf"])
def test_values_that_are_not_finite_are_refused_where_the_backbone_says_so(serve: Serve, value: float) -> None:
    """The registration has `finite=True`; only that item fails, and the error names the row."""
    bad = request(0, 3, backbone="clean")
    array = np.zeros((3, 2), np.float32)
    array[1, 1] = value
    bad.input.CopyFrom(embedding_pb2.Input(tensor=encode_tensor(array)))
    with serve("clean", warm_up_s=0) as running, grpc.insecure_channel(running.address) as channel:
        with pytest.raises(grpc.RpcError, match="NaN or infinite values, first in row 1") as caught:
            stub_of(channel).Embed(bad, timeout=10)
        assert stub_of(channel).Embed(request(0, backbone="clean"), timeout=10).revision
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
