"""Images of rarer kinds: the same pixels as from a plain file, or an error, with any metadata beside them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch
from PIL import Image, features

from midrib.backbones import MediaError
from midrib.backbones._images import MAX_PIXELS, prepare_images
from midrib.registry import ImageInput

ZEROS, ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
PLAIN = ImageInput(16, ZEROS, ONES, "bilinear", 1.0)
RAMP = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (16, 1))
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def levels(image: bytes | Image.Image | npt.NDArray[np.generic], spec: ImageInput = PLAIN) -> npt.NDArray[np.int16]:
    """The prepared image, [height, width, 3], 0..255."""
    return (prepare_images([image], spec)[0].permute(1, 2, 0) * 255).round().numpy().astype(np.int16)


def tiff(array: npt.NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes, *, intact: bool = True) -> bytes:
    checksum = zlib.crc32(kind + body) if intact else 0
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(*extra: bytes, image: Image.Image | None = None) -> bytes:
    """A PNG with chunks behind its header."""
    content = encoded(Image.fromarray(PHOTO) if image is None else image)
    return content[:33] + b"".join(extra) + content[33:]


def grey_png(bits: int, levels_of_it: list[int], transparent: int) -> bytes:
    """A grey PNG of one row, of few bits a pixel, with a transparent level."""
    packed = sum(level << (8 - bits * (place + 1)) for place, level in enumerate(levels_of_it))
    header = struct.pack(">IIBBBBB", len(levels_of_it), 1, bits, 0, 0, 0, 0)
    chunks = [
        chunk(b"IHDR", header),
        chunk(b"tRNS", struct.pack(">H", transparent)),
        chunk(b"IDAT", zlib.compress(bytes([0, packed]))),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_white_is_zero_is_inverted() -> None:
    """X-rays and scans of 16 bits, as those of 8 bits are by Pillow."""
    assert (
        np.abs(levels(tiff(RAMP.astype(np.uint16) * 257, photometric="miniswhite"))[..., 0] - (255 - RAMP)).max() <= 1
    )


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(tiff(RAMP.astype(np.uint32) * 16843009), id="uint32"),
        pytest.param(tiff(RAMP.astype(np.uint32)), id="dark-uint32"),
        pytest.param(tiff(RAMP.astype(np.int32) * 8421504), id="int32"),
        pytest.param(tiff(RAMP.astype(np.int16)), id="int16"),
        pytest.param(tiff(RAMP.astype(np.int8)), id="int8"),
        pytest.param(Image.fromarray(RAMP.astype(np.int32) * 1000), id="pil-beyond-16-bits"),
        pytest.param(Image.fromarray(-RAMP.astype(np.int32)), id="pil-negative"),
    ],
)
def test_pixels_whose_scale_is_unknown_are_refused(image: Any) -> None:
    """Clipped, or read as unsigned, they would be another picture."""
    with pytest.raises(
        MediaError,
        match="item 0: got an image of (32 bits per pixel.*|signed pixels), expected 8 or 16 unsigned bits",
    ):
        levels(image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_transparent_grey_level_is_white(dtype: type[np.unsignedinteger[Any]]) -> None:
    """A PNG's tRNS, at 8 and at 16 bits: only that level, not its neighbours."""
    scale = np.iinfo(dtype).max // 255
    grey = Image.fromarray(RAMP.astype(dtype) * scale)
    got = levels(png(chunk(b"tRNS", struct.pack(">H", int(RAMP[0, 3]) * scale)), image=grey))[0, :, 0]
    expected = RAMP[0].astype(np.int16)
    expected[3] = 255
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize(
    ("bits", "step"), [pytest.param(1, 255, id="1"), pytest.param(2, 85, id="2"), pytest.param(4, 17, id="4")]
)
def test_a_transparent_level_of_few_bits_is_white(bits: int, step: int) -> None:
    """The level is named in the file's own bits, while the decoder scales the pixels to 8."""
    spec = ImageInput(1, ZEROS, ONES, "bilinear", 1.0, width=2)
    assert levels(grey_png(bits, [0, 1], transparent=0), spec)[0, :, 0].tolist() == [255, step]
    assert levels(grey_png(bits, [0, 1], transparent=1), spec)[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("colour", [(0, 0, 0), (65535, 0, 0), (0x1200, 0x3400, 0x5600)])
def test_a_transparent_colour_of_16_bits_is_white(colour: tuple[int, int, int]) -> None:
    """A PNG names it in 16 bits a channel; the other pixel stays."""
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = b"\0" + struct.pack(">6H", *colour, 0x3000, 0x3000, 0x3000)
    chunks = (
        (b"IHDR", header),
        (b"tRNS", struct.pack(">3H", *colour)),
        (b"IDAT", zlib.compress(pixels)),
        (b"IEND", b""),
    )
    image = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)
    spec = ImageInput(1, ZEROS, ONES, "bilinear", 1.0, width=2)
    assert levels(image, spec)[0].tolist() == [[255] * 3, [0x30] * 3]


LARGE = zlib.compress(bytes(2 << 20))
BROKEN_PNGS = [
    pytest.param(chunk(b"iCCP", b"name\0\0" + b"junk"), id="icc-not-compressed"),
    pytest.param(chunk(b"iCCP", b"name\0\0" + LARGE), id="icc-large"),
    pytest.param(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE), id="xmp-large"),
    pytest.param(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe tiff:Orientation='"), id="xmp-no-text"),
    pytest.param(chunk(b"zTXt", b"Comment\0\0" + LARGE), id="text-large"),
    pytest.param(chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"), id="exif-offset"),
    pytest.param(chunk(b"eXIf", b"nothing"), id="exif-noise"),
    pytest.param(chunk(b"tEXt", b"a\0b", intact=False), id="checksum-of-text"),
    pytest.param(chunk(b"gAMA", struct.pack(">I", 45455), intact=False), id="checksum-of-gamma"),
    pytest.param(chunk(b"gAMA", b"\0"), id="gamma-short"),
    pytest.param(chunk(b"pHYs", b"\0"), id="density-short"),
]


@pytest.mark.parametrize("extra", BROKEN_PNGS)
def test_a_pngs_broken_metadata_does_not_matter(extra: bytes) -> None:
    """Good pixels are read, also beside damaged metadata."""
    assert np.array_equal(levels(png(extra)), PHOTO)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"IEND"])
def test_a_wrong_checksum_of_good_pixels_does_not_matter(kind: bytes) -> None:
    """The decompressor finds damage of the pixels itself."""
    content = bytearray(png())
    start = content.index(kind)
    (length,) = struct.unpack_from(">I", content, start - 4)
    content[start + 4 + length : start + 8 + length] = bytes(4)
    assert np.array_equal(levels(bytes(content)), PHOTO)


def test_the_orientation_survives_other_broken_metadata() -> None:
    """A broken text beside a good eXIf leaves the picture upright."""
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = chunk(b"eXIf", exif.tobytes()[6:])
    assert np.array_equal(levels(png(turned, chunk(b"tEXt", b"a\0b", intact=False))), PHOTO[::-1, ::-1])


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"), id="exif-offset"),
        pytest.param(segment(0xE1, b"Exif\0\0noise"), id="exif-noise"),
        pytest.param(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe tiff:Orientation='"), id="xmp"),
        pytest.param(segment(0xE2, b"ICC_PROFILE\0\1"), id="icc-short"),
        pytest.param(segment(0xE2, b"ICC_PROFILE\0\2\5junk"), id="icc-part-missing"),
        pytest.param(segment(0xE2, b"MPF\0noise"), id="multi-picture"),
        pytest.param(segment(0xE0, b"JFIF\0"), id="jfif-short"),
        pytest.param(segment(0xEE, b"Adobe"), id="adobe-short"),
        pytest.param(segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\xff\xff"), id="photoshop"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO file:UserWarning")
def test_a_jpegs_broken_metadata_does_not_matter(extra: bytes) -> None:
    """The pixels are those of the same file without it."""
    content = encoded(Image.fromarray(PHOTO), "JPEG", quality=95)
    assert np.array_equal(levels(content[:2] + extra + content[2:]), levels(content))


@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])
def test_broken_exif_of_other_formats_does_not_matter(kind: str) -> None:
    """Broken EXIF or a broken colour profile is ignored, as in PNG and JPEG."""
    options: dict[str, Any] = {"exif": b"Exif\0\0noise", "lossless": True} if kind == "WEBP" else {"icc_profile": b"no"}
    assert np.array_equal(levels(encoded(Image.fromarray(PHOTO), kind, **options)), PHOTO)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "PPM"])
def test_a_limit_above_the_default_is_honoured(kind: str) -> None:
    """max_pixels is the only limit: Pillow's own, at a third and two thirds of it, is not in force."""
    image = encoded(Image.new("L", (15_000, 12_000)), kind)
    assert prepare_images([image], PLAIN, max_pixels=180_000_000).shape == (1, 3, 16, 16)
    with pytest.raises(MediaError, match=f"more than {MAX_PIXELS} pixels"):
        prepare_images([image], PLAIN)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow is built without AVIF")
def test_avif_is_read() -> None:
    """AVIF is read if Pillow has its decoder."""
    picture = Image.new("RGB", (16, 16), (200, 100, 50))
    assert np.abs(levels(encoded(picture, "AVIF", quality=100)) - np.asarray(picture)).max() <= 3


def test_a_crop_of_more_than_the_image_is_padded_with_black() -> None:
    """timm's VOLO models: the image is resized to less than the crop."""
    spec = ImageInput(20, ZEROS, ONES, "bilinear", 1.25)
    got = levels(np.full((16, 16, 3), 200, np.uint8), spec)
    assert got[2:18, 2:18].min() == 200
    assert int(got.sum()) == 200 * 3 * 16 * 16


def test_a_border_is_the_mean_and_keeps_the_whole_image() -> None:
    """timm's crop mode "border": padded above and below a wide image."""
    spec = ImageInput(16, (0.2, 0.4, 0.6), ONES, "bilinear", 1.0, border=True)
    row = prepare_images([np.full((8, 16, 3), 255, np.uint8)], spec)[0]
    assert torch.allclose(row[:, :4], torch.zeros(3, 4, 16), atol=1 / 255)
    assert torch.allclose(row[:, 4:12], torch.tensor([0.8, 0.6, 0.4]).view(3, 1, 1).expand(3, 8, 16), atol=1e-6)


def test_height_and_width_may_differ() -> None:
    """The shorter side, relative to the size, is filled, and the rest is cropped."""
    spec = ImageInput(8, ZEROS, ONES, "bilinear", 1.0, width=16)
    assert spec.tensor.shape == (3, 8, 16)
    picture = np.repeat(RAMP[:, :1].T.repeat(16, 0)[..., None], 3, 2)
    assert levels(picture, spec).shape == (8, 16, 3)
    assert prepare_images([], spec).shape == (0, 3, 8, 16)


@pytest.mark.parametrize("order", ["<", ">"])
def test_planes_of_16_bits_are_refused(order: str) -> None:
    """Pillow reads uncompressed ones as planes of 8 bits: another picture, and no error."""
    planes = np.moveaxis(PHOTO.astype(np.uint16) * 257, -1, 0)
    image = tiff(planes, photometric="rgb", planarconfig="separate", byteorder=order)
    with pytest.raises(MediaError, match="item 0: got an image of 16 bits in separate planes, expected 8 or 16"):
        levels(image)


def test_compressed_planes_of_16_bits_are_read() -> None:
    """libtiff reads those, and it reads them right."""
    planes = np.moveaxis(PHOTO.astype(np.uint16) * 257, -1, 0)
    image = tiff(planes, photometric="rgb", planarconfig="separate", compression="zlib")
    assert np.abs(levels(image) - PHOTO).max() <= 1


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        pytest.param(tiff(RAMP.astype(np.float64)), "TIFF", id="float64-tiff"),
        pytest.param(tiff(PHOTO.astype(np.uint32), photometric="rgb"), "TIFF", id="uint32-colour-tiff"),
    ],
)
def test_a_file_of_a_known_format_that_cannot_be_read_is_named(image: bytes, kind: str) -> None:
    """Not "of no known format", which would send its owner to look for another mistake."""
    with pytest.raises(MediaError, match=f"item 0: got a {kind} file that is damaged or of a rare kind"):
        levels(image)


@pytest.mark.parametrize("order", ["<", ">"])
def test_arrays_of_16_bits_may_have_any_byte_order(order: str) -> None:
    """Both byte orders give the same pixels."""
    assert np.abs(levels((PHOTO.astype(np.uint16) * 257).astype(f"{order}u2")) - PHOTO).max() <= 1


def test_premultiplied_grey_lies_over_white() -> None:
    """Transparent pixels become white, as for grey with plain transparency."""
    image = Image.merge("LA", [Image.fromarray(RAMP), Image.new("L", (16, 16), 128)])
    assert np.abs(levels(image.convert("La")) - levels(image)).max() <= 2
