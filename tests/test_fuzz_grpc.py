"""Any message to any gRPC method of a live server: always a status, and the server is as good as before.

benchmarks/soak/fuzz.py runs the same for any time.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz_messages import Call, Conversation, calls, conversations
from tests.fuzz_subject import Subject, subjected

FUZZ = settings(max_examples=150, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def subject(front: str) -> Iterator[Subject]:
    with subjected() as fuzzed:
        yield fuzzed


@FUZZ
@given(call=calls())
def test_any_unary_call_gets_a_status(subject: Subject, call: Call) -> None:
    """INTERNAL only if the module raised; the server is unharmed by any request."""
    subject.check_call(call)


@FUZZ
@given(conversation=conversations())
def test_any_conversation_gets_a_status(subject: Subject, conversation: Conversation) -> None:
    """Open, items, duplicates, garbage, half-close and cancel in any order."""
    subject.check_conversation(conversation)
