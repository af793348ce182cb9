"""Media mean the same through a client and in process: every image mode, every sample type, every refusal."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from midrib.backbones import Backbone, MediaError, load_backbone
from midrib.registry import AudioInput, ImageInput, Registry
from midrib.remote import Client
from midrib.remote.testing import serving
from midrib.wire import InvalidInputError

PIXELS, PEAK = "test/media/pixels", "test/media/peak"
SIZE, RATE = 16, 8000
FEW = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Peak(nn.Module):
    """The largest, the smallest and the mean sample of a clip."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [rows, 3] for [rows, samples]."""
        return torch.stack([x.amax(1), x.amin(1), x.mean(1)], 1)


def media_registry() -> Registry:
    """Return two backbones whose features show their input."""
    registry = Registry("media")
    image = ImageInput(SIZE, (0, 0, 0), (1, 1, 1))
    registry(lambda: (nn.Flatten(), 3 * SIZE * SIZE), name="pixels", namespace="test/media", input=image)
    registry(lambda: (Peak(), 3), name="peak", namespace="test/media", input=AudioInput(RATE))
    return registry


REGISTRY = media_registry()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(PIXELS, PEAK, registry=REGISTRY) as server, Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def pixels() -> Backbone:
    return load_backbone(PIXELS, registry=REGISTRY)


@pytest.fixture(scope="module")
def peak() -> Backbone:
    return load_backbone(PEAK, registry=REGISTRY)


def picture(seed: int, *shape: int, dtype: str = "u1") -> Any:
    """Return random pixels of the type's full range."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (24, 20, *shape), dtype=dtype, endpoint=True)


def turned(seed: int) -> Image.Image:
    """Return a picture whose EXIF says that it lies on its side."""
    image = Image.fromarray(picture(seed, 3))
    image.getexif()[0x0112] = 2 + seed % 7
    return image


def keyed(seed: int) -> Image.Image:
    """Return a palette picture with one transparent colour."""
    image = Image.fromarray(picture(seed, 3)).quantize(16)
    image.info["transparency"] = seed % 16
    return image


def opened(image: Image.Image, kind: str = "PNG", **options: Any) -> Image.Image:
    """Return the image as Pillow opens it from a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def tagged(image: Image.Image, **info: Any) -> Image.Image:
    """Return the image with properties as Pillow keeps them."""
    image.info.update(info)
    return image


def of_mode(mode: str) -> Callable[[int], Image.Image]:
    return lambda seed: Image.fromarray(picture(seed, 4)).convert(mode)


IMAGES: dict[str, Callable[[int], Image.Image]] = {
    **{mode: of_mode(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "PA")},
    "La": lambda seed: of_mode("LA")(seed).convert("La"),
    "I;16B": lambda seed: Image.frombytes("I;16B", (20, 24), picture(seed, dtype="u2").astype(">u2").tobytes()),
    "broken-exif": lambda seed: tagged(of_mode("RGB")(seed), exif=b"broken"),
    "grey-png-transparent": lambda seed: opened(of_mode("L")(seed), transparency=seed % 256),
    "1-bit-png-transparent": lambda seed: opened(of_mode("1")(seed), transparency=seed % 2),
    "16-bit-png-transparent": lambda seed: opened(Image.fromarray(picture(seed, dtype="u2") // 8192), transparency=3),
    "16-bit-tiff-white-is-zero": lambda seed: opened(
        Image.fromarray(picture(seed, dtype="u2")), "TIFF", tiffinfo={262: 0}
    ),
    "I;16": lambda seed: Image.fromarray(picture(seed, dtype="u2")),
    "I": lambda seed: Image.fromarray(picture(seed, dtype="u2").astype("i4")),
    "exif": turned,
    "transparent-colour": keyed,
    "array-grey": lambda seed: picture(seed),
    "array-rgb": lambda seed: picture(seed, 3),
    "array-rgba": lambda seed: picture(seed, 4),
    "array-grey-16": lambda seed: picture(seed, dtype="u2"),
    "array-big-endian": lambda seed: picture(seed, dtype="u2").astype(">u2"),
    "array-rgb-16": lambda seed: picture(seed, 3, dtype="u2"),
    "array-view": lambda seed: picture(seed, 3)[::-1, ::2],
}


@pytest.mark.parametrize("mode", IMAGES)
@FEW
@given(seed=st.integers(0, 1000))
def test_an_image_has_the_features_that_it_has_in_process(
    client: Client, pixels: Backbone, mode: str, seed: int
) -> None:
    """Orientation, transparency, depth and colour model follow one set of rules."""
    want = pixels.embed_images([IMAGES[mode](seed)]).numpy()
    got = client.embed(PIXELS, images=[IMAGES[mode](seed)])
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(Image.new("F", (8, 8)), id="F"),
        pytest.param(Image.new("I", (8, 8), -1), id="negative"),
        pytest.param(Image.new("I", (8, 8), 65536), id="32-bits"),
        pytest.param(opened(Image.new("I", (8, 8)), "TIFF"), id="32-bit-tiff"),
        pytest.param(Image.new("RGB", (0, 8)), id="no-pixels"),
        pytest.param(np.ones((8, 8), np.float32), id="floats"),
        pytest.param(np.ones((8, 8), bool), id="bool"),
        pytest.param(np.ones((3, 8, 8), np.uint8), id="channels-first"),
        pytest.param(np.ones((0, 8), np.uint8), id="empty"),
        pytest.param([[1, 2]], id="list"),
        pytest.param(None, id="none"),
    ],
)
def test_an_image_refused_in_process_is_refused_by_the_client(client: Client, pixels: Backbone, image: Any) -> None:
    """The error names the item, and nothing is sent."""
    with pytest.raises(MediaError, match="item 0"):
        pixels.embed_images([image])
    with pytest.raises(InvalidInputError, match=r"images\[1\]"):
        client.embed(PIXELS, images=[np.zeros((8, 8), np.uint8), image])


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", ">i2", "u2", ">u2", "i4", "u4", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("channels", [(), (1,), (2,)], ids=["flat", "mono", "stereo"])
@FEW
@given(seed=st.integers(0, 1000))
def test_a_clip_has_the_features_that_it_has_in_process(
    client: Client, peak: Backbone, dtype: str, channels: tuple[int, ...], seed: int
) -> None:
    """Integers count by their full range, for every type; channels are averaged."""
    noise = np.random.default_rng(seed).uniform(-1, 1, (200, *channels))
    full = 1.0 if np.dtype(dtype).kind == "f" else float(np.iinfo(dtype).max) / 2
    shift = full if np.dtype(dtype).kind == "u" else 0.0
    clip = (noise * full * 0.99 + shift).astype(dtype)
    want = peak.embed_audio([clip], RATE).numpy()
    np.testing.assert_allclose(client.embed(PEAK, audio=[clip], rate=RATE), want, atol=1e-6)


@pytest.mark.parametrize(
    "clip",
    [
        pytest.param(np.ones(8, bool), id="bool"),
        pytest.param(np.ones(8, "m8[s]"), id="spans-of-time"),
        pytest.param([1, 2, 3], id="integers-of-unknown-range"),
        pytest.param(np.ones((2, 2, 2)), id="three-dimensions"),
        pytest.param(np.ones(0), id="empty"),
        pytest.param(None, id="none"),
    ],
)
def test_a_clip_refused_in_process_is_refused_by_the_client(client: Client, peak: Backbone, clip: Any) -> None:
    """The error names the item, and nothing is sent."""
    with pytest.raises(MediaError, match="item 0"):
        peak.embed_audio([clip], RATE)
    with pytest.raises(InvalidInputError, match=r"audio\[1\]"):
        client.embed(PEAK, audio=[np.ones(8, np.float32), clip], rate=RATE)


@pytest.mark.parametrize("rate", [16000.0, "16000", 0, -1, 2**63, None], ids=str)
def test_a_rate_that_is_not_a_number_of_samples_is_refused(client: Client, rate: Any) -> None:
    """The client refuses it at once."""
    with pytest.raises(InvalidInputError, match="rate"):
        client.embed(PEAK, audio=[np.ones(8, np.float32)], rate=rate)


def test_samples_beyond_float32_are_refused(client: Client, peak: Backbone) -> None:
    """In process they became infinite features."""
    with pytest.raises(MediaError, match="item 0: the clip holds NaN or infinite"):
        peak.embed_audio([np.full(8, 1e300)], RATE)
    with pytest.raises(InvalidInputError, match="NaN or infinite"):
        client.embed(PEAK, audio=[np.full(8, 1e300)], rate=RATE)
