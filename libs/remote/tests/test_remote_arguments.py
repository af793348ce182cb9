"""Arguments that cannot be right: each fails its own call, at once, with a sentence that says what is expected."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from midrib.remote import AsyncClient, Client, RemoteBackbone
from midrib.remote._clients.options import EMBED_OPTIONS, batch_rows, feature_options
from midrib.remote._items.rows import any_rows, audio_rows, image_rows, text_rows
from midrib.wire import InvalidInputError

ADDRESS = "127.0.0.1:9"
NAN, INFINITE = float("nan"), float("inf")
BAD_SECONDS: list[Any] = [0, -1, NAN, INFINITE, 1e10, "5", None, True]
CONSTRUCTOR: list[tuple[dict[str, Any], str]] = [
    *[({"timeout": value}, "timeout is .*expected seconds") for value in BAD_SECONDS],
    *[({"hedge_s": value}, "hedge_s is .*expected seconds") for value in BAD_SECONDS[:-2]],
    *[({"token": value}, r"token.*strip\(\)") for value in ("a\n", " a", "a\nb", "\ud800", "\0")],
    ({"token": b"secret"}, "token is a bytes, expected a string"),
    ({"priority": []}, "priority is .*expected one of interactive"),
    ({"shared_memory": "yes"}, "shared_memory is 'yes', expected True, False or None"),
    ({"tls": 5}, "tls is 5, expected True, the path"),
    ({"tls": ""}, "tls is '', expected True, the path"),
]
BAD_DTYPES: list[Any] = [5, [1], {}, "int3", "\ud800", ""]
OPTIONS: list[tuple[dict[str, Any], str]] = [
    *[({"dimensions": value}, "dimensions is .*expected an integer of 1") for value in (0, -1, 1.5, "3", True, 10**30)],
    *[({"normalize": value}, "normalize is .*expected True or False") for value in ("no", 2, [1], NAN)],
    *[({"dtype": value}, "dtype") for value in BAD_DTYPES],
    *[({name: 5}, f"{name} is 5, expected a string") for name in ("revision", "prompt", "prompt_name")],
    *[({name: [1]}, f"{name} is .*expected a string") for name in ("revision", "prompt", "prompt_name")],
    *[({name: "\ud800"}, f"{name} is .*not valid Unicode") for name in ("revision", "prompt", "prompt_name")],
]


class RootsFile:
    """A path of another class than pathlib's.  path: of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


class NoArray:
    """An object whose conversion fails."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Raise RuntimeError instead of returning values [rows]."""
        raise RuntimeError("no values")


class OddText(str):
    """A string whose own `encode` fails."""

    def encode(self, *_: Any) -> bytes:
        """Raise RuntimeError."""
        raise RuntimeError("no bytes")


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(("keywords", "said"), CONSTRUCTOR, ids=str)
def test_a_wrong_argument_of_the_constructor(client: Any, keywords: dict[str, Any], said: str) -> None:
    """It is refused there, before a thread or an event loop waits for it."""
    with pytest.raises(InvalidInputError, match=said):
        client(ADDRESS, **keywords)


def test_a_token_that_is_refused_is_not_shown() -> None:
    """Errors are logged, and tokens are secret."""
    with pytest.raises(InvalidInputError, match="white space") as caught:
        Client(ADDRESS, token="secret\n")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", [None, 5, b"a:1", "\ud800:5", "a\nb:5", "a:٣", "grpc://user:word@a:1"], ids=repr)
def test_an_address_that_cannot_be_one(address: Any) -> None:
    """It would fail later, in a thread that has no caller."""
    with pytest.raises(InvalidInputError, match="address"):
        Client(address)


@pytest.mark.parametrize(("options", "said"), OPTIONS, ids=str)
def test_a_wrong_option(options: Any, said: str) -> None:
    """It is the caller's error; before, it ended the stream that all calls of the process share."""
    with pytest.raises(InvalidInputError, match=said):
        feature_options(options, EMBED_OPTIONS)


@pytest.mark.parametrize("name", [None, 5, [1], "\ud800"], ids=repr)
def test_a_name_that_is_not_text(name: Any) -> None:
    """It is refused before anything is sent."""
    with pytest.raises(InvalidInputError, match="name is .*(expected a string|not valid Unicode)"):
        Client(ADDRESS, timeout=1.0).embed(name, np.ones((1, 2), "f4"))


@pytest.mark.parametrize("kind", ["video", None, []], ids=repr)
def test_an_unknown_kind(kind: Any) -> None:
    """It is not taken for audio."""
    with pytest.raises(InvalidInputError, match="kind is .*expected one of tensor, images, texts, audio"):
        batch_rows([np.ones(3)], kind, 8000)


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(torch.ones(2, 8, requires_grad=True), id="gradient"),
        pytest.param([torch.ones(8, requires_grad=True)], id="list-of-gradients"),
        pytest.param(torch._neg_view(torch.ones(2, 8)), id="negative-view"),  # - torch has no public name
        pytest.param(torch.ones(2, 8, device="meta"), id="meta"),
        pytest.param(NoArray(), id="object"),
    ],
)
def test_an_object_that_numpy_cannot_read(x: Any) -> None:
    """Its own error is quoted."""
    with pytest.raises(InvalidInputError, match="numpy cannot make an array"):
        any_rows(x)


@pytest.mark.parametrize("x", [iter([1]), {"a": 1}, {1}, int, ...], ids=lambda x: type(x).__name__)
def test_a_value_that_is_not_an_array_is_named_by_its_type(x: Any) -> None:
    """Not as a scalar, of which numpy makes an array of objects."""
    with pytest.raises(InvalidInputError, match=f"input is a {type(x).__name__}, expected an array"):
        any_rows(x)


@pytest.mark.parametrize(
    ("kind", "rows"),
    [("images", image_rows), ("texts", text_rows), ("audio", lambda clips: audio_rows(clips, 8000))],
    ids=["images", "texts", "audio"],
)
@pytest.mark.parametrize("values", [5, {}, {"a": 1}, {b"a"}, object()], ids=lambda values: type(values).__name__)
def test_media_that_are_not_a_sequence(kind: str, rows: Callable[[Any], object], values: Any) -> None:
    """Neither are a mapping, whose keys would be taken, and a set, which has no order."""
    with pytest.raises(InvalidInputError, match=f"{kind} is a {type(values).__name__}, expected a sequence"):
        rows(values)


@pytest.mark.parametrize("channels", [3, 4])
def test_one_picture_that_is_not_in_a_list(channels: int) -> None:
    """Its rows would be read as grey pictures, of width 3."""
    picture = np.zeros((20, 30, channels), np.uint8)
    with pytest.raises(InvalidInputError, match=rf"shape \[20, 30, {channels}\].*pass images=\[array\]"):
        image_rows(picture)  # type: ignore[arg-type] # the mistake itself


@pytest.mark.parametrize("shape", [(5, 30, 20), (5, 30, 20, 3)], ids=["grey", "RGB"])
def test_an_array_of_pictures(shape: tuple[int, ...]) -> None:
    """Its first dimension counts them."""
    assert image_rows(np.zeros(shape, np.uint8)).count == 5  # type: ignore[arg-type] # sequences of images


@pytest.mark.parametrize("path", ["\0", "\ud800"], ids=repr)
def test_an_image_path_that_cannot_exist_is_refused(path: str) -> None:
    """The error names the image's index."""
    with pytest.raises(InvalidInputError, match=r"images\[0\] is .*not a path"):
        image_rows([path])


@pytest.mark.parametrize(
    "clip",
    [torch.zeros(8, requires_grad=True), torch.zeros(8, dtype=torch.bfloat16), torch.zeros(8).to_sparse(), NoArray()],
    ids=["gradient", "bfloat16", "sparse", "object"],
)
def test_a_clip_that_numpy_cannot_read_is_refused(clip: Any) -> None:
    """The error names the clip's index."""
    with pytest.raises(InvalidInputError, match=r"audio\[0\] is not an array of samples"):
        audio_rows([clip], 8000)


def test_a_text_of_a_derived_class() -> None:
    """Its characters count, not its methods."""
    assert text_rows([OddText("a")]).nbytes == text_rows(["a"]).nbytes


@pytest.mark.parametrize("dtype", ["f2", np.float16, np.dtype(">f2"), np.str_("float16"), torch.float16], ids=repr)
def test_an_element_type_of_numpy_or_torch_counts_by_its_name(dtype: Any) -> None:
    """All callers of one function then share a stream."""
    assert feature_options({"dtype": dtype}, EMBED_OPTIONS).dtype == "float16"


@pytest.mark.parametrize("dtype", [*BAD_DTYPES, "int64", torch.complex64], ids=repr)
def test_a_module_takes_floating_types_only(dtype: Any) -> None:
    """It says so before it connects."""
    with pytest.raises(InvalidInputError, match="dtype"):
        RemoteBackbone(f"grpc://{ADDRESS}/some/name", dtype=dtype)


def test_roots_may_be_any_path(tmp_path: Path) -> None:
    """Such as those of pytest's older fixtures."""
    (tmp_path / "roots.pem").touch()
    assert repr(Client(ADDRESS, tls=RootsFile(tmp_path / "roots.pem"))) == f"Client('grpcs://{ADDRESS}')"


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_pickled_client_has_the_same_servers(client: Any) -> None:
    """As a data set that is sent to a worker process has it."""
    assert repr(pickle.loads(pickle.dumps(client("a:1,b:2")))) == repr(client("a:1,b:2"))
