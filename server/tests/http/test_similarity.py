"""/similarity as text-embeddings-inference has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from midrib.server.testing import RunningServer
from server.tests.http.calls import Answer, embed_by_grpc, texts

SENTENCES = {"source_sentence": "good morning", "sentences": ["good day", "good morning"]}


def test_sentences_are_compared_by_their_cosine(fresh_server: RunningServer) -> None:
    """The name of the only backbone is not needed."""
    answer = Answer(fresh_server.server.http_address, {"inputs": SENTENCES}, path="/similarity")
    rows = embed_by_grpc(fresh_server, texts("good morning", "good day", "good morning"), normalize=True)
    np.testing.assert_allclose(answer.json, (rows[1:] @ rows[0]).tolist(), rtol=1e-5)
    assert answer.json[1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param({"inputs": SENTENCES}, (400, "model", "INVALID_INPUT"), id="which model"),
        pytest.param({"model": "words"}, (400, "inputs", "INVALID_INPUT"), id="no inputs"),
        pytest.param(
            {"model": "words", "inputs": {"source_sentence": "x", "sentences": []}},
            (400, "inputs.sentences", "INVALID_INPUT"),
            id="no sentences",
        ),
        pytest.param({"model": "word", "inputs": SENTENCES}, (404, None, "BACKBONE_NOT_FOUND"), id="another model"),
    ],
)
def test_a_bad_call_is_refused(address: str, body: Any, error: Any) -> None:
    """The error has the form of every other error."""
    status, _, field, code = Answer(address, body, path="/similarity").error
    assert (status, field, code) == error
