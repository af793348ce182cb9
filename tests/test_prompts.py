"""Prompts of a call: a server and `embed_files` give the vectors that sentence-transformers computes."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.backbones.tests.test_backbone_pipelines import TEXTS, encoder, saved
from midrib.backbones import Backbone
from midrib.backbones._loaders.sentence_pipelines import load_sentence_transformers
from midrib.integrations import Encoder
from midrib.registry import ImageInput, Registry, TextInput
from midrib.remote import AsyncClient, Client, RemoteBackbone, embed_files
from midrib.remote._connect.backbone_info import info_from
from midrib.server._command.embed import LocalEmbedder
from midrib.server.testing import RunningServer, serving
from midrib.v1 import backbone_pb2
from midrib.wire import InvalidInputError, UnsupportedError, encode_input_spec

modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason="the family under test")
PROMPTS = {"prompts": {"query": "query : ", "passage": "the leaf :"}, "default_prompt_name": "query"}
NAME = "text/embedding/pipeline"
CHOICES = [
    pytest.param({}, id="default"),
    pytest.param({"prompt_name": "passage"}, id="by-name"),
    pytest.param({"prompt": "a midrib of "}, id="by-text"),
    pytest.param({"prompt": ""}, id="none"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prompts")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return saved(folder, lambda path: [encoder(path), modules.Pooling(16, include_prompt=False)], PROMPTS)


@pytest.fixture(scope="module")
def running(folder: Path, reference: Any) -> Iterator[RunningServer]:  # it writes the folder
    registry = Registry("prompts")

    @registry(name="pipeline", namespace="text/embedding", input=TextInput(20))
    def load() -> tuple[Any, int]:
        return load_sentence_transformers("any", checkpoint=folder / "pipeline")

    with serving(NAME, registry=registry, http_port=0, http_token_ids=True) as server:
        yield server


def vectors(running: RunningServer, **fields: Any) -> Any:
    address = running.server.http_address
    body = json.dumps({"model": NAME, "input": TEXTS, "normalize": False, **fields}).encode()
    request = urllib.request.Request(f"http://{address}/v1/embeddings", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return np.array([row["embedding"] for row in json.load(response)["data"]])


def assert_equal(features: Any, expected: Any) -> None:
    assert float(np.abs(np.asarray(features) - expected).max()) <= 1e-5


@pytest.mark.parametrize("choice", CHOICES)
def test_a_client_gives_the_librarys_vectors(running: RunningServer, reference: Any, choice: dict[str, Any]) -> None:
    """`Client.embed` takes the prompt or prompt_name of `SentenceTransformer.encode`."""
    with Client(running.address) as client:
        assert_equal(client.embed(NAME, texts=TEXTS, **choice), reference.encode(TEXTS, **choice))


@pytest.mark.parametrize("choice", CHOICES)
def test_an_encoder_gives_the_librarys_vectors(running: RunningServer, reference: Any, choice: dict[str, Any]) -> None:
    """The model's own prompts and its default prompt; their tokens are not pooled, as the model says."""
    model = Encoder(running.url(NAME))
    assert_equal(model.encode(TEXTS, **choice), reference.encode(TEXTS, **choice))


def test_an_encoders_queries_have_the_prompts_of_the_model(running: RunningServer, reference: Any) -> None:
    """A prompt of this name that the caller gives comes first."""
    model = Encoder(running.url(NAME))
    assert_equal(model.encode_query(TEXTS), reference.encode_query(TEXTS))
    assert_equal(model.encode_document(TEXTS), reference.encode_document(TEXTS))
    asking = Encoder(running.url(NAME), prompts={"query": "ask : "})
    assert_equal(asking.encode_query(TEXTS), reference.encode(TEXTS, prompt="ask : "))


def test_an_async_client_and_a_remote_backbone_take_prompts(running: RunningServer, reference: Any) -> None:
    """`Backbone.embed_texts` takes the same arguments for a remote module."""
    expected = reference.encode(TEXTS, prompt_name="passage")

    async def embed() -> Any:
        async with AsyncClient(running.address) as client:
            return await client.embed(NAME, texts=TEXTS, prompt_name="passage")

    assert_equal(asyncio.run(embed()), expected)
    module = RemoteBackbone((running.address, NAME))
    backbone = Backbone(NAME, module, module.num_features, module.input)
    assert_equal(backbone.embed_texts(TEXTS, prompt_name="passage"), expected)


@pytest.mark.parametrize("choice", CHOICES)
def test_http_gives_the_librarys_vectors(running: RunningServer, reference: Any, choice: dict[str, Any]) -> None:
    """/v1/embeddings takes prompt and prompt_name."""
    assert_equal(vectors(running, **choice), reference.encode(TEXTS, **choice))


@pytest.mark.parametrize(
    ("input_type", "method"),
    [
        pytest.param("query", "encode_query", id="query"),
        pytest.param("search_document", "encode_document", id="search-document"),
    ],
)
def test_an_input_type_chooses_as_the_library_does(
    running: RunningServer, reference: Any, input_type: str, method: str
) -> None:
    """Queries and documents get the prompts of `encode_query` and `encode_document`."""
    assert_equal(vectors(running, input_type=input_type), getattr(reference, method)(TEXTS))


def test_an_input_type_may_be_the_name_of_a_prompt(running: RunningServer, reference: Any) -> None:
    """The library would prefer its own, empty "document" to the model's "passage"."""
    assert_equal(vectors(running, input_type="passage"), reference.encode(TEXTS, prompt_name="passage"))


def test_token_zero_is_a_token_over_http(running: RunningServer, reference: Any) -> None:
    """Ids of the backbone's tokenizer may hold 0: [PAD] that a text spells is a token of it."""
    ids = reference.tokenizer(TEXTS)["input_ids"]
    assert 0 in ids[2]
    assert_equal(vectors(running, input=ids), reference.encode(TEXTS, prompt=""))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"prompt_name": "doc"}, "has no prompt 'doc': it has 'query', 'document'", id="unknown"),
        pytest.param({"prompt_name": "query", "prompt": "q"}, "expected at most one", id="both"),
        pytest.param({"prompt": "q", "input": [[4, 5]]}, "the input is a tensor", id="token-ids"),
    ],
)
def test_http_refuses_a_prompt_that_does_not_fit(running: RunningServer, fields: dict[str, Any], message: str) -> None:
    """A prompt is never ignored."""
    with pytest.raises(urllib.error.HTTPError, match="400") as caught:
        vectors(running, **fields)
    assert message in json.load(caught.value)["error"]["message"]


def test_a_client_refuses_an_unknown_name(running: RunningServer) -> None:
    """The error lists the names."""
    with (
        Client(running.address) as client,
        pytest.raises(InvalidInputError, match="it has 'document', 'passage', 'query'"),
    ):
        client.embed(NAME, texts=TEXTS, prompt_name="doc")


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        pytest.param(TextInput(8), UnsupportedError, "does not take prompts: update it", id="older-server"),
        pytest.param(ImageInput(8), InvalidInputError, "a prompt is for texts", id="images"),
    ],
)
def test_a_prompt_that_would_be_ignored_is_refused(spec: Any, error: type[Exception], message: str) -> None:
    """A server that is older than prompts does not read the field."""
    from midrib.remote._clients.options import FeatureOptions

    info = info_from(backbone_pb2.Backbone(name=NAME, input=encode_input_spec(spec)))
    with pytest.raises(error, match=message):
        FeatureOptions(prompt="q").spec(info)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("remote", [True, False], ids=["remote", "in-process"])
def test_embedded_files_have_the_librarys_vectors(
    running: RunningServer, reference: Any, folder: Path, tmp_path: Path, *, choice: dict[str, Any], remote: bool
) -> None:
    """`midrib embed --prompt` and `--prompt-name` replace the default prompt; they are not put before it."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    backbone: Any = f"grpc://{running.address}/{NAME}"
    if not remote:
        backbone = LocalEmbedder("sentence-transformers/any", {"checkpoint": folder / "pipeline"})
    embed_files(backbone, [tmp_path / "texts.txt"], tmp_path / "out.npy", **choice)
    assert_equal(np.load(tmp_path / "out.npy"), reference.encode(TEXTS, **choice))
