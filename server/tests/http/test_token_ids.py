"""Token ids over HTTP: refused, unless the operator says that callers use the tokenizer of the backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from midrib.server.testing import RunningServer
from server.tests.http.calls import Answer, embed_by_grpc, texts

# As the test's tokenizer makes them of "good morning".
GOOD_MORNING = [1 + sum(b"good") % 99, 1 + sum(b"morning") % 99]


@pytest.mark.parametrize(
    "value", [pytest.param([100, 200], id="of a text"), pytest.param([[100], [200]], id="of two texts")]
)
def test_token_ids_are_refused_by_default(fresh_server: RunningServer, value: Any) -> None:
    """LangChain sends ids of OpenAI's tokenizer unless an option forbids it: they would give wrong embeddings."""
    answer = Answer(fresh_server.server.http_address, {"model": "words", "input": value})
    assert answer.error == (400, "invalid_request_error", "input", "INVALID_INPUT")
    assert "OpenAIEmbeddings(check_embedding_ctx_length=False)" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "value", [pytest.param(GOOD_MORNING, id="of a text"), pytest.param([GOOD_MORNING], id="of a list of texts")]
)
def test_token_ids_are_the_same_as_their_text(address: str, media_server: RunningServer, value: Any) -> None:
    """With http_token_ids, they are those of the backbone's own tokenizer."""
    answer = Answer(address, {"model": "words", "input": value})
    expected = embed_by_grpc(media_server, texts("good morning"), normalize=True)
    np.testing.assert_allclose(answer.rows, expected, rtol=1e-6)
    assert answer.json["usage"]["prompt_tokens"] == 2


def test_lists_of_token_ids_may_differ_in_length(address: str) -> None:
    """Each is padded, and the padding changes nothing."""
    together = Answer(address, {"model": "words", "input": [[5], [6, 7, 8]]})
    apart = [Answer(address, {"model": "words", "input": ids}).rows[0] for ids in ([5], [6, 7, 8])]
    np.testing.assert_allclose(together.rows, apart, rtol=1e-6)
    assert together.json["usage"]["total_tokens"] == 4


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        pytest.param([0], 400, "token id -1", id="token 0 of a module that does not read it"),
        pytest.param([True], 400, "another form", id="true"),
        pytest.param([10**30], 400, "another form", id="a huge id"),
        pytest.param([[1], []], 400, "without token ids", id="an empty list"),
        pytest.param([1] * 9, 413, "a list of 9 token ids, at most 8", id="too many"),
        pytest.param([[1]] * 2049, 413, "2049 entries, at most 2048", id="too many lists"),
    ],
)
def test_wrong_token_ids_are_refused(address: str, value: Any, status: int, words: str) -> None:
    """Before a tensor is made of them."""
    answer = Answer(address, {"model": "words", "input": value})
    assert (answer.status, words in answer.json["error"]["message"]) == (status, True), answer.json
