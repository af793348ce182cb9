"""The queue: which parts are joined, sent separately or sent again. No server: the test acts as the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from midrib.registry import TensorInput
from midrib.remote._connect.address import endpoint_from
from midrib.remote._connect.backbone_info import BackboneInfo
from midrib.remote._items.codec import Result, Timing
from midrib.remote._items.rows import tensor_rows
from midrib.remote._stream.call import Message
from midrib.remote._stream.exchange import Exchange
from midrib.remote._stream.request import CallPolicy, StreamSpec
from midrib.remote._stream.session import CallSession
from midrib.remote._stream.window import StreamWindow
from midrib.v1 import embedding_pb2
from midrib.wire import (
    Array,
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    LimitExceededError,
    MidribError,
    OverloadedError,
    decode_tensor,
)

INFO = BackboneInfo(
    name="a/b",
    revision="r",
    num_features=2,
    input=TensorInput((None,)),
    state="ready",
    device="cpu",
    compute_dtype="float32",
    license="",
    max_message_bytes=100_000,
    max_rows=10,
)


@pytest.fixture()
def session(monkeypatch: pytest.MonkeyPatch) -> CallSession:
    """A session whose connections never open."""
    monkeypatch.setattr(CallSession, "_wake", lambda _: None)
    monkeypatch.setattr(CallSession, "_wake_soon", lambda _: None)
    return CallSession(endpoint_from("127.0.0.1:9"), StreamSpec("a/b", "r"), INFO, CallPolicy(30))


def rows(count: int, *, start: float = 0.0, width: int = 2) -> Array:
    return (np.arange(count * width, dtype="f4") + start).reshape(count, width)


def taken(session: CallSession) -> list[int]:
    """How many parts each message has, until nothing waits."""
    return [len(message.parts) for message in iter(session.queue.take, None)]


def take(session: CallSession) -> Message:
    message = session.queue.take()
    assert message is not None
    return message


def test_the_queue_is_divided_among_messages(session: CallSession) -> None:
    """Each server gets a part of the calls; without a number one message takes all of them."""
    for start in range(7):
        session.submit(tensor_rows(rows(1, start=start)))
    parts = [len(message.parts) for message in map(session.queue.take, (3, 2)) if message is not None]
    assert (parts, taken(session)) == ([3, 2], [2])


def answer(session: CallSession, outcome: Array | MidribError) -> Message:
    message = take(session)
    session.results.settle(message, Result(1, outcome, Timing()))
    return message


def test_queued_calls_are_joined(session: CallSession) -> None:
    """Small calls of one shape join into one message, and each gets its own rows."""
    calls = [session.submit(tensor_rows(rows(1, start=start))) for start in (0, 10, 20)]
    answer(session, np.array([[0, 1], [2, 3], [4, 5]], "f4"))
    assert [call.result().tolist() for call in calls] == [[[0, 1]], [[2, 3]], [[4, 5]]]


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        pytest.param([rows(6), rows(6, start=1)], [1, 1], id="over-the-servers-rows"),
        pytest.param([rows(1), rows(1, width=3), rows(1, start=1)], [1, 1, 1], id="another-shape"),
        pytest.param([rows(1), rows(1).astype("f8")], [1, 1], id="another-type"),
        pytest.param([rows(4), rows(4, start=1), rows(4, start=2)], [2, 1], id="as-many-as-fit"),
        pytest.param([rows(25)], [1, 1, 1, 1], id="a-large-call-is-cut"),
        pytest.param([rows(1, start=s, width=5000) for s in range(6)], [3, 3], id="over-the-servers-bytes"),
    ],
)
def test_calls_that_do_not_fit_are_sent_separately(session: CallSession, inputs: list[Array], parts: list[int]) -> None:
    """Within the server's limits, and only rows of one shape and type."""
    for x in inputs:
        session.submit(tensor_rows(x))
    assert taken(session) == parts


def test_after_a_joined_failure_each_call_is_sent_separately(session: CallSession) -> None:
    """A call does not fail for a neighbour: the error reaches only the call that also fails separately."""
    good, bad = (session.submit(tensor_rows(rows(1, start=start))) for start in (0, 10))
    answer(session, InvalidInputError("one of you"))
    answer(session, np.ones((1, 2), "f4"))
    answer(session, InvalidInputError("you"))
    assert good.result().tolist() == [[1, 1]]
    with pytest.raises(InvalidInputError, match="^you$"):
        bad.result()


def test_a_small_call_is_sent_as_it_was_submitted(session: CallSession) -> None:
    """Changes that its caller makes to the array afterwards are not sent."""
    x = rows(1)
    session.submit(tensor_rows(x))
    x[:] = 7
    session.submit(tensor_rows(x))
    item = embedding_pb2.EmbedStreamRequest.FromString(take(session).encode(1)).item
    np.testing.assert_array_equal(decode_tensor(item.input.tensor), [[0, 1], [7, 7]])


def test_equal_calls_are_sent_twice(session: CallSession) -> None:
    """A benchmark that repeats one payload measures the server and not this client's look-up."""
    calls = [session.submit(tensor_rows(rows(1))) for _ in range(2)]
    assert [part.call for part in take(session).parts] == calls


def test_an_abandoned_call_is_not_sent(session: CallSession) -> None:
    """The queue passes over it."""
    session.submit(tensor_rows(rows(1))).leave()
    kept = session.submit(tensor_rows(rows(1, start=5)))
    assert [part.call for part in take(session).parts] == [kept]
    assert not session.queue.busy()


def test_items_of_a_broken_stream_are_sent_first(session: CallSession) -> None:
    """Unanswered parts are queued again before newer ones."""
    old = session.submit(tensor_rows(rows(6)))
    message = take(session)
    new = session.submit(tensor_rows(rows(6, start=1)))
    session.results.requeue([message])
    assert [take(session).parts[0].call for _ in range(2)] == [old, new]


async def test_an_overloaded_server_is_called_again(session: CallSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits for the time that the server named before it calls again."""
    later: list[tuple[float, Callable[..., None], list[object]]] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda delay, call, *args: later.append((delay, call, list(args))))
    call = session.submit(tensor_rows(rows(1)))
    answer(session, OverloadedError("full", retry_after=2.0))
    assert session.queue.take() is None
    ((delay, again, args),) = later
    assert 2.0 <= delay <= 3.0
    again(*args)
    answer(session, np.ones((1, 2), "f4"))
    assert call.done


@pytest.mark.parametrize("shape", [(2, 2), (1,), (0, 2)], ids=str)
def test_an_answer_of_other_rows_is_a_fault(session: CallSession, shape: tuple[int, ...]) -> None:
    """Rows are never guessed to belong to someone."""
    call = session.submit(tensor_rows(rows(1)))
    answer(session, np.ones(shape, "f4"))
    with pytest.raises(InternalError, match="answered 1 rows with float32 of shape"):
        call.result()


def test_a_row_over_the_message_limit_is_refused(session: CallSession) -> None:
    """Waiting does not help, and the error names both sizes."""
    with pytest.raises(LimitExceededError, match="one row takes 400000 bytes"):
        session.submit(tensor_rows(rows(1, width=100_000)))


def test_the_deadline_is_the_callers(session: CallSession) -> None:
    """Nothing answers: the wait ends, and the call with it."""
    call = session.submit(tensor_rows(rows(1)))
    with pytest.raises(DeadlineExceededError, match=r"no answer within 0\.01 s"):
        session.wait(call, 0.01)
    assert call.done


class EndingStream:
    """A stream that opens, accepts one item, and ends once the item is being written."""

    def __init__(self) -> None:
        self.writes, self.opened = 0, False
        self.writing, self.cancelled = asyncio.Event(), asyncio.Event()

    async def write(self, _: bytes) -> bool:
        self.writes += 1
        if self.writes > 1:  # the item: it never leaves, and its end takes a moment
            self.writing.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
                for __ in range(5):
                    await asyncio.sleep(0)
        return True

    async def read(self) -> bytes | None:
        if not self.opened:
            self.opened = True
            return embedding_pb2.EmbedStreamResponse(opened=embedding_pb2.Opened(revision="r")).SerializeToString()
        await self.writing.wait()
        return None

    async def error(self) -> MidribError:
        return InternalError("the stream ended")

    def cancel(self) -> None:
        """Nothing is left to cancel."""


async def test_items_of_a_stream_that_is_closed_while_it_ends_are_queued_again(session: CallSession) -> None:
    """`close` may come at any moment: also while the writer of a broken stream is being stopped."""
    stream: Any = EndingStream()
    exchange = Exchange(session._context, stream, StreamWindow(), target="127.0.0.1:9", address="127.0.0.1:9")
    call = session.submit(tensor_rows(rows(1)))
    running = asyncio.create_task(exchange.run())
    await stream.cancelled.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError, match="^$"):
        await running
    assert [part.call for part in take(session).parts] == [call]
