"""Calls are cut into parts, and their results are joined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midrib.remote._items.codec import Timing
from midrib.remote._items.rows import audio_rows, tensor_rows, text_rows
from midrib.remote._stream.call import Message, MessageRows, StreamedCall, split
from midrib.remote._stream.window import ByteBudget, StreamWindow
from midrib.wire import InternalError, InvalidInputError


@given(count=st.integers(1, 300), max_rows=st.integers(1, 64), max_bytes=st.integers(1, 4000), data=st.data())
def test_any_split_gives_every_row_once_and_in_order(
    count: int, max_rows: int, max_bytes: int, data: st.DataObject
) -> None:
    """Parts stay under the limits (one row may not), and features land where their rows stood, in any order."""
    x = np.arange(count * 4, dtype="f4").reshape(count, 4)
    call = StreamedCall(tensor_rows(x))
    parts = list(split(MessageRows(call, call.rows, 0, 0.0), max_rows, max_bytes))
    assert all(part.rows.count == 1 or part.rows.count <= max_rows for part in parts)
    assert all(part.rows.count == 1 or part.rows.nbytes <= max_bytes for part in parts)
    for part in data.draw(st.permutations(parts)):
        Message([part]).deliver(x[part.start : part.start + part.rows.count])
    np.testing.assert_array_equal(call.result(), x)


def test_features_belong_to_the_caller() -> None:
    """The result can be written to: it is not a view of a message."""
    call = StreamedCall(tensor_rows(np.ones((2, 3), "f4")))
    message = np.frombuffer(bytes(16), "f4").reshape(2, 2)
    call.deliver(0, message)
    assert call.result().flags.writeable


def test_a_call_fails_once() -> None:
    """The first error counts, and later parts change nothing."""
    call = StreamedCall(tensor_rows(np.ones((2, 3), "f4")))
    call.fail(InternalError("first"))
    call.fail(InternalError("second"))
    call.deliver(0, np.ones((2, 2), "f4"))
    with pytest.raises(InternalError, match="first"):
        call.result()


def test_a_call_that_its_caller_leaves_is_dropped() -> None:
    """It counts as done, and is not sent."""
    call = StreamedCall(text_rows(["a"]))
    call.leave()
    assert call.done


def test_clips_are_sent_as_they_were_at_the_call() -> None:
    """Later changes of the caller's array are not sent."""
    clip = np.ones(3, "f4")
    rows = audio_rows([clip], 16_000)
    before = rows.encode(1, [])
    clip[:] = 2
    assert rows.encode(1, []) == before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(lambda: tensor_rows(3.0), "scalar of float64, expected", id="scalar"),
        pytest.param(lambda: tensor_rows(np.array(["x"])), "expected one of bfloat16, bool", id="strings"),
        pytest.param(lambda: text_rows("one"), r"pass \[text\]", id="one-string"),
        pytest.param(lambda: audio_rows([[0.0]], None), "pass rate=", id="no-rate"),
    ],
)
def test_input_that_cannot_travel_is_refused_at_once(make: object, said: str) -> None:
    """The error comes before any call, and says what to do."""
    assert callable(make)
    with pytest.raises(InvalidInputError, match=said):
        make()


def test_the_window_grows_while_the_server_runs_dry() -> None:
    """An item that waited less than one computation asks for more in flight, up to the server's limit."""
    window = StreamWindow()
    window.allow(6)
    for _ in range(9):
        window.observe(Timing(0.001, 0.010, 0.012), network_s=0.0, limited=True)
    assert window.size == 6


def test_the_window_shrinks_while_items_pile_up() -> None:
    """A queue of over four computations hides no more latency."""
    window = StreamWindow()
    window.allow(100)
    for _ in range(9):
        window.observe(Timing(0.050, 0.010, 0.061), network_s=0.0, limited=True)
    assert window.size == 2


def test_a_given_window_stays() -> None:
    """window= turns adaptation off, and the server's limit still holds."""
    window = StreamWindow(7)
    window.allow(100)
    window.observe(Timing(0.0, 0.010, 0.011), network_s=0.0, limited=True)
    assert window.size == 7
    window.allow(3)
    assert window.size == 3


@pytest.mark.parametrize(
    ("network_s", "few"), [pytest.param(0.001, 2, id="slow-device"), pytest.param(0.1, 1, id="long-way")]
)
def test_small_calls_wait_for_company(network_s: float, few: int) -> None:
    """While one item is in flight where the way is long, or two that keep a device busy; a full message never does."""
    window = StreamWindow()
    window.allow(100)
    for _ in range(9):
        window.observe(Timing(0.0, 0.010, 0.011), network_s=network_s, limited=False)
    assert [window.room(in_flight, backlog=False) for in_flight in range(4)] == [n < few for n in range(4)]
    assert window.room(3, backlog=True)


def test_a_single_slow_result_changes_nothing() -> None:
    """However long it took: it counts as one of many."""
    window = StreamWindow()
    window.observe(Timing(0.0, 0.010, 0.011), network_s=1000.0, limited=False)
    assert window.room(1, backlog=False)


def test_a_server_may_allow_one_item_at_a_time() -> None:
    """Nothing is sent that it would refuse."""
    window = StreamWindow()
    window.allow(1)
    assert window.room(0, backlog=False)
    assert not window.room(1, backlog=True)


def test_a_stream_may_send_half_of_the_bytes_that_broke_the_last_one() -> None:
    """A proxy that limits the bytes of a call is passed with several streams; messages are smaller than a stream."""
    budget = ByteBudget()
    assert budget.allows(100 << 20, 1 << 20)
    assert budget.shrink(2 << 20) == 512 << 10
    assert [budget.allows(sent, 512 << 10) for sent in (0, 512 << 10, 513 << 10)] == [True, True, False]
    assert budget.allows(0, 4 << 20)
