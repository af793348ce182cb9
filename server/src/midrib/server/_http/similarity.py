"""/similarity as text-embeddings-inference has it: how similar sentences are to one of them.

Source: https://huggingface.github.io/text-embeddings-inference
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import FailFast, Field, RootModel

from midrib.server._http.body import Fields
from midrib.server._http.embeddings import EmbeddingsBody
from midrib.server._http.inputs import MAX_INPUTS
from midrib.wire import Array


class Sentences(Fields):
    """A sentence, and the sentences to compare it with."""

    source_sentence: str
    sentences: Annotated[list[str], FailFast()] = Field(min_length=1, max_length=MAX_INPUTS - 1)


class SimilarityBody(Fields):
    """The body of POST /similarity."""

    inputs: Sentences
    model: str | None = None
    """The name of a served backbone. Needed only if several are served; text-embeddings-inference serves one."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Accepted and ignored: texts are always truncated to the limit of the backbone."""


class Cosines(RootModel[list[float]]):
    """The cosine of each sentence with the source sentence, in order."""


def embeddings_body(body: SimilarityBody, model: str) -> EmbeddingsBody:
    """Return the embeddings call for a body: the source sentence first, each row of unit length."""
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    return EmbeddingsBody(model=model, input=texts, encoding_format="base64")


def similarities(features: Array) -> list[float]:
    """Return the cosines of the first row with each other row; features: [rows, num_features] of unit length."""
    cosines: list[float] = np.clip(features[1:] @ features[0], -1, 1).tolist()
    return cosines
