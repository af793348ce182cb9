"""Texts where rows are expected, and inputs that a remote backbone refuses with a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from midrib.backbones import BACKBONES
from midrib.registry import Registry, TensorInput
from midrib.remote import Client, RemoteBackbone
from midrib.remote.testing import RunningServer, serving
from midrib.wire import InvalidInputError, UnsupportedError

pytestmark = pytest.mark.usefixtures("route")
NUMBERS, TEXTS = "test/inputs/wide", "text/embedding/wordllama-256"
WIDTH = 64 << 10


def new_registry() -> Registry:
    registry = Registry("test")
    registry(
        lambda: (nn.Sequential(nn.Tanh(), nn.AvgPool1d(WIDTH // 2)), 2),
        name="wide",
        namespace="test/inputs",
        input=TensorInput((WIDTH,)),
        num_features=2,
    )
    return registry


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(NUMBERS, registry=new_registry(), max_message_bytes=1 << 20) as server:
        yield server


@pytest.fixture(scope="module")
def texts_server() -> Iterator[RunningServer]:
    with serving(TEXTS) as server:
        yield server


@pytest.fixture(scope="module")
def backbone(server: RunningServer) -> RemoteBackbone:
    return RemoteBackbone(server.url(NUMBERS))


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(["a leaf", "a stem"], id="list"),
        pytest.param(("a leaf", "a stem"), id="tuple"),
        pytest.param(np.array(["a leaf", "a stem"]), id="array"),
        pytest.param(np.array(["a leaf", "a stem"], object), id="objects"),
    ],
)
def test_a_batch_of_strings_is_texts(texts_server: RunningServer, texts: Any) -> None:
    """As if they were given by texts=."""
    with Client(texts_server.address) as client:
        want = client.embed(TEXTS, texts=["a leaf", "a stem"])
        np.testing.assert_allclose(client.embed(TEXTS, texts), want, atol=1e-6)
        np.testing.assert_allclose(next(client.embed_stream(TEXTS, [texts])), want, atol=1e-6)


def test_a_remote_backbone_takes_strings(texts_server: RunningServer) -> None:
    """Their features are those of the client."""
    with Client(texts_server.address) as client:
        want = client.embed(TEXTS, texts=["a leaf"])
    got = RemoteBackbone(texts_server.url(TEXTS))(["a leaf"])
    np.testing.assert_allclose(got.numpy(), want, atol=1e-6)


@pytest.mark.parametrize("texts", [["a", None], [None, "a"][::-1], ["a", 3], ["a", ["b"]]], ids=str)
def test_an_item_that_is_not_a_string_is_named(texts_server: RunningServer, texts: Any) -> None:
    """The client and the module give its index."""
    with Client(texts_server.address) as client:
        for call in (partial(client.embed, TEXTS, texts=texts), partial(client.embed, TEXTS, texts)):
            with pytest.raises(InvalidInputError, match=r"texts\[1\] is .*expected a string"):
                call()
    with pytest.raises(InvalidInputError, match=r"texts\[1\] is .*expected a string"):
        RemoteBackbone(texts_server.url(TEXTS))(texts)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        pytest.param([torch.zeros(WIDTH)], r"got list, expected a tensor .*: pass torch.stack\(x\)", id="list"),
        pytest.param(np.zeros((1, WIDTH), "f4"), r"got ndarray, expected a tensor .*torch.as_tensor\(x\)", id="array"),
        pytest.param(torch.zeros(1, WIDTH).to_sparse(), "to_dense", id="sparse"),
        pytest.param("a leaf", r"pass \[text\]", id="one-string"),
        pytest.param(torch.zeros(1, WIDTH, device="meta"), "holds no values", id="meta"),
        pytest.param(torch.zeros(1, WIDTH).to(torch.float8_e4m3fn), r"cannot be sent.*x\.float\(\)", id="float8"),
    ],
)
def test_an_input_that_is_not_a_batch_is_refused(backbone: RemoteBackbone, x: Any, said: str) -> None:
    """With the type that came, and the one expected."""
    with pytest.raises(InvalidInputError, match=said):
        backbone(x)


def test_images_in_place_of_a_tensor_are_refused() -> None:
    """The module takes tensors; the error says which method prepares images."""
    with serving({"name": "efficientnet-lite0", "arguments": {"pretrained": False}}, warm_up_s=0.0) as server:
        backbone = RemoteBackbone(server.url("efficientnet-lite0"))
        with pytest.raises(InvalidInputError, match=r"got list, .*: pass images to .*\.embed_images"):
            backbone([np.zeros((4, 4, 3), np.uint8)])


def test_one_string_in_place_of_a_list_of_texts_is_refused(texts_server: RunningServer) -> None:
    """A string is also a sequence of strings, and its letters would be embedded."""
    with pytest.raises(InvalidInputError, match=r"pass \[text\]"):
        RemoteBackbone(texts_server.url(TEXTS)).embed_texts("a leaf")


def test_an_argument_of_the_loader_is_refused_for_a_url(server: RunningServer) -> None:
    """The server has loaded the backbone: the error says where its arguments are set."""
    with pytest.raises(TypeError, match="unexpected argument 'num_features': .* midrib serve 'namespace/name"):
        BACKBONES.load(server.url(NUMBERS), num_features=8)


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage:UserWarning")
def test_a_nested_tensor_is_refused(backbone: RemoteBackbone) -> None:
    """It has no rows of one shape."""
    with pytest.raises(InvalidInputError, match="nested, expected a dense one"):
        backbone(torch.nested.nested_tensor([torch.zeros(WIDTH)]))


def test_a_view_that_negates_its_memory_is_sent_as_it_reads(backbone: RemoteBackbone) -> None:
    """Such as the imaginary part of a conjugate: numpy cannot read its memory."""
    x = torch.randn(2, WIDTH, dtype=torch.complex64)
    torch.testing.assert_close(backbone(x.conj().imag), backbone(-x.imag))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("trace", [torch.jit.trace, lambda module, x: make_fx(module)(x)], ids=["jit", "make_fx"])
def test_tracing_is_refused(backbone: RemoteBackbone, trace: Any) -> None:
    """A trace would keep the features of its example as a constant."""
    with pytest.raises(UnsupportedError, match="cannot be traced"):
        trace(backbone, torch.zeros(1, WIDTH))


def test_a_backward_pass_over_the_message_limit_is_split(backbone: RemoteBackbone) -> None:
    """2.6 MB of rows travel in messages of at most 1 MiB, as in the forward pass, and each row gets its gradient."""
    x = torch.randn(10, WIDTH, requires_grad=True)
    backbone(x).sum().backward()
    leaf = x.detach().clone().requires_grad_()
    torch.tanh(leaf).reshape(len(leaf), 2, -1).mean(2).sum().backward()  # type: ignore[no-untyped-call] # torch does not type it
    assert x.grad is not None
    assert leaf.grad is not None
    torch.testing.assert_close(x.grad, leaf.grad)
