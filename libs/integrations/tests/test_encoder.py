"""`Encoder`: the interface of sentence-transformers, over a served backbone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from midrib import integrations
from midrib.backbones import load_backbone
from midrib.integrations import Encoder
from midrib.server.testing import RunningServer, serving
from midrib.wire import InvalidInputError

BACKBONE = "text/embedding/all-minilm-l6-v2"
README = Path(__file__).parents[1] / "README.md"
TEXTS = ["The cat sleeps.", "The bakery opens at six."]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving(BACKBONE, warm_up_s=0.0) as server:
        yield server


@pytest.fixture(scope="module")
def encoder(running: RunningServer) -> Iterator[Encoder]:
    model = Encoder(running.url(BACKBONE))
    yield model
    model.close()


def test_texts_are_rows_of_float32(encoder: Encoder) -> None:
    """The same rows as in this process."""
    rows = encoder.encode(TEXTS, batch_size=1, show_progress_bar=False)
    assert (rows.dtype, rows.shape) == (np.float32, (2, 384))
    np.testing.assert_allclose(rows, load_backbone(BACKBONE).embed_texts(TEXTS).numpy(), atol=1e-5)


def test_a_single_text_is_one_row(encoder: Encoder) -> None:
    """A text in place of a list gives [num_features], as SentenceTransformer does."""
    np.testing.assert_allclose(encoder.encode(TEXTS[0]), encoder.encode(TEXTS)[0], atol=1e-5)


def test_no_texts_are_no_rows(encoder: Encoder) -> None:
    """With the width of the others, so that arrays can be joined."""
    assert encoder.encode([]).shape == (0, 384)
    assert encoder.get_sentence_embedding_dimension() == 384


def test_a_tensor_is_returned_if_it_is_selected(encoder: Encoder) -> None:
    """Its memory is writable, as torch requires."""
    rows = encoder.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(rows, torch.Tensor)
    assert rows.add_(1).shape == (2, 384)


def test_queries_and_documents_have_their_prompts(running: RunningServer, encoder: Encoder) -> None:
    """By the names "query" and "document"; an explicit prompt comes first."""
    prompted = Encoder(running.url(BACKBONE), prompts={"query": "query: ", "document": "passage: "})
    for rows, text in [
        (prompted.encode_query("bread"), "query: bread"),
        (prompted.encode_document("bread"), "passage: bread"),
        (prompted.encode_query("bread", prompt="ask: "), "ask: bread"),
        (prompted.encode("bread", prompt_name="query"), "query: bread"),
        (prompted.encode("bread"), "bread"),
        (encoder.encode_query("bread"), "bread"),
    ]:
        np.testing.assert_allclose(rows, encoder.encode(text), atol=1e-5)


def test_rows_are_shortened_before_they_are_normalised(running: RunningServer) -> None:
    """The server does both, so that a shortened row has unit length."""
    short = Encoder(running.url(BACKBONE), truncate_dim=16)
    rows = short.encode(TEXTS, normalize_embeddings=True)
    assert (rows.shape, short.get_sentence_embedding_dimension()) == ((2, 16), 16)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("url", ["localhost:50051", "grpc://localhost:50051", "grpc:///name", ""])
def test_a_url_without_a_backbone_is_refused(url: str) -> None:
    """The error comes before anything connects."""
    with pytest.raises(InvalidInputError, match=r"expected grpc://host:port/namespace/name"):
        Encoder(url)


def test_an_unknown_prompt_is_refused(encoder: Encoder) -> None:
    """The message lists the known ones."""
    with pytest.raises(InvalidInputError, match=r"prompt_name is 'title', expected one of \[\]: pass prompts="):
        encoder.encode("bread", prompt_name="title")


def test_an_unknown_option_is_refused(encoder: Encoder) -> None:
    """It would be ignored silently otherwise."""
    with pytest.raises(TypeError, match=r"unexpected arguments \['precision'\]"):
        encoder.encode("bread", precision="int8")  # type: ignore[call-arg] # the error of this test


def test_the_readme_runs(running: RunningServer) -> None:
    """As a reader would paste it; only the address differs."""
    names: dict[str, Any] = {}
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(code.replace("localhost:50051", running.address), str(README), "exec"), names)
    assert names["notes"].shape == (2, 384)


def test_the_public_list_is_whole() -> None:
    """The frameworks' modules are imported by their names: each needs its framework."""
    assert integrations.__all__ == ["Encoder"]
