"""Errors are the same on both sides of the wire."""

from __future__ import annotations

import pickle

import pytest
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from midrib import wire
from midrib.wire import MidribError, error_to_status, status_to_error

FAMILY = [kind for kind in vars(wire).values() if isinstance(kind, type) and issubclass(kind, MidribError)]


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_comes_back_as_itself(kind: type[MidribError]) -> None:
    """Class, message, reason, retry and field survive the wire."""
    error = kind("got 2, expected 3: send 3", retry_after=0.25, field="input.tensor.shape")
    back = status_to_error(error_to_status(error))
    assert (type(back), back.__dict__) == (kind, error.__dict__)


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_survives_pickling(kind: type[MidribError]) -> None:
    """Errors of DataLoader workers keep all their fields."""
    error = kind("message", reason="SPECIAL", retry_after=1.0)
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.__dict__) == (kind, error.__dict__)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (wire.BackboneNotFoundError, KeyError),
        (wire.InvalidInputError, ValueError),
        (wire.InputKindError, TypeError),
        (wire.DeadlineExceededError, TimeoutError),
        (wire.UnavailableError, ConnectionError),
        (wire.UnauthenticatedError, PermissionError),
    ],
    ids=lambda kind: kind.__name__,
)
def test_an_error_is_the_builtin_that_a_user_expects(kind: type[MidribError], builtin: type[Exception]) -> None:
    """Code without knowledge of Midrib can catch it."""
    assert issubclass(kind, builtin)


def test_a_key_error_reads_as_a_sentence() -> None:
    """A plain KeyError would show the repr of the message."""
    assert str(wire.BackboneNotFoundError("no backbone 'x' here")) == "no backbone 'x' here"


def test_the_status_carries_standard_details() -> None:
    """Clients in any language read ErrorInfo, RetryInfo and BadRequest."""
    status = error_to_status(wire.OverloadedError("full", retry_after=1.5, field="input"))
    info, retry, request = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.BadRequest(),
    )
    assert [detail.Unpack(message) for detail, message in zip(status.details, (info, retry, request), strict=True)]
    assert (status.code, info.reason, info.domain) == (code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", "midrib")
    assert retry.retry_delay.ToSeconds() == 1
    assert request.field_violations[0].field == "input"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (code_pb2.UNAVAILABLE, wire.UnavailableError),
        (code_pb2.DEADLINE_EXCEEDED, wire.DeadlineExceededError),
        (code_pb2.UNAUTHENTICATED, wire.UnauthenticatedError),
        (code_pb2.DATA_LOSS, MidribError),
    ],
    ids=["unavailable", "deadline", "unauthenticated", "unknown code"],
)
def test_a_foreign_status_becomes_the_plain_error_of_its_code(code: int, kind: type[MidribError]) -> None:
    """The status of a proxy has no reason of Midrib."""
    assert type(status_to_error(status_pb2.Status(code=code, message="m"))) is kind


def test_a_reason_of_another_code_is_not_believed() -> None:
    """If code and reason disagree, the code decides."""
    status = error_to_status(wire.OverloadedError("full"))
    status.code = code_pb2.INTERNAL
    assert type(status_to_error(status)) is wire.InternalError


@pytest.mark.parametrize(
    ("seconds", "nanos", "retry_after"), [(-5, 0, 0.0), (2, 500_000_000, 2.5), (2**62, 0, None), (-(2**62), 0, 0.0)]
)
def test_an_impossible_time_to_retry_is_ignored(seconds: int, nanos: int, retry_after: float | None) -> None:
    """The message can hold numbers that no timer takes."""
    status = status_pb2.Status(code=code_pb2.UNAVAILABLE)
    delay = duration_pb2.Duration(seconds=seconds, nanos=nanos)
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    assert status_to_error(status).retry_after == retry_after


def test_details_that_cannot_be_read_are_left_out() -> None:
    """The code and the text still say what happened."""
    status = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="later")
    status.details.add().Pack(error_details_pb2.ErrorInfo())
    status.details[0].value = b"\xff"
    error = status_to_error(status)
    assert (type(error), error.message) == (wire.UnavailableError, "later")


def test_a_status_without_a_text_becomes_an_error_with_one() -> None:
    """An empty message tells nobody anything."""
    assert status_to_error(status_pb2.Status(code=code_pb2.UNKNOWN)).message.endswith("the code 2")
