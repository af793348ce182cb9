"""Check the contract of a backbone with one call, in the tests of its author.

from midrib.backbones.testing import assert_conforms

def test_my_backbone() -> None:
    assert_conforms(load_my_backbone, input=ImageInput(224), pretrained=False)
"""

from __future__ import annotations

import copy
import io
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from midrib.backbones._backbone import Backbone, load_backbone
from midrib.backbones._contract import example_rows
from midrib.registry import AbstractRegistry, InputSpec, Registry

__all__ = ["NetworkError", "assert_conforms", "no_network"]

_TOLERANCE = 1e-4


class NetworkError(AssertionError):
    """An attempt to use the network by code that must not."""


@contextmanager
def no_network() -> Iterator[None]:
    """Make every attempt to look up a host or to connect raise NetworkError."""

    def refuse(*arguments: object, **_: object) -> None:
        """Raise NetworkError with the address."""
        raise NetworkError(f"tried to reach the network: {arguments[-1]!r}")

    with (
        mock.patch.object(socket.socket, "connect", refuse),
        mock.patch.object(socket.socket, "connect_ex", refuse),
        mock.patch.object(socket, "getaddrinfo", refuse),
    ):
        yield


def assert_conforms(
    loader: str | Callable[..., Any],
    *,
    registry: AbstractRegistry | None = None,
    input: InputSpec | None = None,  # noqa: A002 (the word of the registration)
    **kwargs: Any,
) -> None:
    """Raise AssertionError, naming the broken rule, unless the loader makes a backbone that keeps the contract.

    loader: a registered key, or a loader function, with its input spec in `input` as its registration would declare it.
    kwargs: arguments of the loader. With pretrained=False it must load without the network.
    The rules: the output is [rows, num_features]; the same rows give the same features, alone and in any batch (within
    1e-4 of the largest feature); neither input nor state is changed; copies, pickles and state dicts carry the whole
    function and its revision; raw media of the declared kind can be embedded.
    """
    backbone = _loaded(loader, registry, input, kwargs)
    rows = example_rows(backbone.input, 2)
    features = _steady(backbone, rows)
    _independent(backbone, rows, features)
    _copied(backbone, rows, features)
    _embeds_media(backbone)


def _loaded(
    loader: str | Callable[..., Any],
    registry: AbstractRegistry | None,
    spec: InputSpec | None,
    kwargs: dict[str, Any],
) -> Backbone:
    if not isinstance(loader, str):
        registry = Registry("under test")
        registry(loader, name="loader", input=spec)
        loader = "loader"
    if kwargs.get("pretrained") is not False:
        return load_backbone(loader, registry=registry, **kwargs)
    with no_network():
        return load_backbone(loader, registry=registry, **kwargs)


def _steady(backbone: Backbone, rows: Tensor) -> Tensor:
    """Return the features of rows [rows, …]; check that they repeat and that input and state stay unchanged."""
    copied, before = rows.clone(), backbone.revision()
    features = backbone.embed(rows)
    _require(bool(features.isfinite().all()), "its features are not all finite")
    _require(torch.equal(features, backbone.embed(rows)), "the same rows gave other features the second time")
    _require(torch.equal(rows, copied), "it changed its input in place")
    _require(backbone.revision() == before, "running it changed its state: is something still in training mode?")
    return features


def _independent(backbone: Backbone, rows: Tensor, features: Tensor) -> None:
    """Check that the features of a row do not depend on the other rows of its batch."""
    single = torch.cat([backbone.embed(row.unsqueeze(0)) for row in rows])
    bound = _TOLERANCE * max(1.0, float(features.abs().max()))
    off = float((single - features).abs().max())
    _require(off <= bound, f"a row alone differs by {off:.2g} from the same row in a batch, more than {bound:.2g}")
    _require(not torch.equal(features[0], features[1]), "two different rows gave the same features")


def _copied(backbone: Backbone, rows: Tensor, features: Tensor) -> None:
    """Check that copies, pickles and state dicts carry the whole function."""
    module, revision = backbone.module, backbone.revision()
    state = io.BytesIO()
    torch.save(module.state_dict(), state)
    blank = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
    state.seek(0)
    blank.load_state_dict(torch.load(state, weights_only=True))
    pickled = pickle.loads(pickle.dumps(module))  # noqa: S301 (bytes made here)
    for restored, source in ((blank, "a state dict"), (pickled, "a pickle")):
        other = Backbone(backbone.name, restored, backbone.num_features, backbone.input)
        _require(torch.equal(other.embed(rows), features), f"the module restored from {source} gives other features")
        _require(other.revision() == revision, f"the module restored from {source} has another revision")


def _embeds_media(backbone: Backbone) -> None:
    """Check that raw media of the declared kind become one row each."""
    kind = type(backbone.input).__name__
    if kind == "ImageInput":
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        got = backbone.embed_images([pixels, pixels[:1, :1]])
    elif kind == "TextInput":
        got = backbone.embed_texts(["a leaf", "a midrib is the backbone of a leaf"])
    elif kind == "AudioInput":
        samples = np.random.default_rng(0).random(13_000)
        got = backbone.embed_audio([samples[:4000], samples[4000:]], 8000)
    else:
        return
    _require(got.shape == (2, backbone.num_features), f"two raw items gave features of shape {list(got.shape)}")


def _require(holds: bool, complaint: str) -> None:
    """Raise AssertionError with the complaint unless the condition holds."""
    if not holds:
        raise AssertionError(complaint)
