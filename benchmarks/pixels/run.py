"""Pixels against floats: `python benchmarks/pixels/run.py` writes benchmarks/pixels/README.md.

The server is `midrib serve`, with its defaults, in another process on the same cores. The contenders of a table run
alternately, call by call, and each figure is a median: the machine's speed drifts within minutes.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage.data
import torch
from PIL import Image

from midrib.backbones._images import normalized, prepare_images
from midrib.backbones._pixels.prepare import image_pixels
from midrib.backbones._pixels.resize import resize_and_crop
from midrib.registry import ImageInput
from midrib.remote import Client
from midrib.server._command.server_process import server_process

HERE = Path(__file__).parent
SPEC = ImageInput(224)
BACKBONES = ("benchmark/image/pooled", "image/classification/efficientnet-lite0")
# The largest difference from timm's tensors that the tests of the preprocessing allow, in levels of 0..255.
BOUND_LEVELS = 1

Work = Callable[[], object]


@contextmanager
def midrib_server(*backbones: str) -> Iterator[str]:
    """Yield the address of `midrib serve`, with its defaults."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    first, *following = backbones
    with server_process(first, *following, "--import", "pixel_models", PYTHONPATH=path) as (url, _):
        yield url.removesuffix(f"/{first}")


def alternate(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Return the median seconds of each work. The works run in turn; the first round is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def wire(rounds: int) -> Iterator[str]:
    """Yield the table of uint8 and float32 over the wire."""
    yield "\n## Over the wire: uint8 against float32\n"
    yield "| backbone | rows a call | bytes a row: float32, uint8 | images/s: float32 | uint8 | uint8/float32 | equal |"
    yield "|---|---|---|---|---|---|---|"
    source = np.random.default_rng(0)
    with midrib_server(*BACKBONES) as address, Client(address, timeout=120) as client:
        for backbone in BACKBONES:
            for rows in (1, 16, 64):
                pixels = source.integers(0, 256, (rows, 3, 224, 224), dtype=np.uint8)
                yield _compared(client, backbone, pixels, rounds if rows < 64 else max(3, rounds // 4))


def _compared(client: Client, backbone: str, pixels: npt.NDArray[np.uint8], rounds: int) -> str:
    spec: Any = client.describe(backbone).input
    floats = normalized(torch.from_numpy(pixels), spec).numpy()
    seconds = alternate(
        {
            "float32": lambda: client.embed(backbone, floats),
            "uint8": lambda: client.embed(backbone, pixels),
        },
        rounds,
    )
    rates = {name: len(pixels) / value for name, value in seconds.items()}
    equal = np.array_equal(client.embed(backbone, floats), client.embed(backbone, pixels))
    return (
        f"| {backbone} | {len(pixels)} | {floats[0].nbytes:,}, {pixels[0].nbytes:,} | {rates['float32']:,.0f} | "
        f"{rates['uint8']:,.0f} | {rates['uint8'] / rates['float32']:.2f} | {'yes' if equal else 'no'} |"
    )


def decoding(rounds: int) -> Iterator[str]:
    """Yield the table of encoded images on one core."""
    yield "\n## Encoded images on one core, batches of 8\n"
    yield "The plain loop is Pillow (open, convert, resize, crop) and numpy (scale, normalise, stack)."
    yield "\n| JPEG | plain loop, images/s | to float32 | to uint8 | uint8/loop | bytes a row: float32, uint8 |"
    yield "|---|---|---|---|---|---|"
    torch.set_num_threads(1)
    for scale in (1, 3):
        encoded = _photograph(scale)
        batch = [encoded] * 8
        seconds = alternate(
            {
                "loop": partial(plain_loop, batch),
                "float32": partial(prepare_images, batch, SPEC),
                "uint8": partial(image_pixels, batch, SPEC),
            },
            rounds,
        )
        rates = {name: len(batch) / value for name, value in seconds.items()}
        size = " x ".join(map(str, Image.open(io.BytesIO(encoded)).size))
        yield (
            f"| {size}, {len(encoded) // 1024} KiB | {rates['loop']:,.1f} | {rates['float32']:,.1f} | "
            f"{rates['uint8']:,.1f} | {rates['uint8'] / rates['loop']:.2f} | {3 * 224 * 224 * 4:,}, {3 * 224 * 224:,} |"
        )


def plain_loop(images: list[bytes]) -> npt.NDArray[np.float32]:
    """Return [rows, 3, 224, 224], float32, as a program without Midrib would make it."""
    rows = []
    mean, std = np.asarray(SPEC.mean, np.float32), np.asarray(SPEC.std, np.float32)
    for encoded in images:
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        ratio = 256 / min(image.size)
        image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BICUBIC)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
        rows.append(((pixels - mean) / std).transpose(2, 0, 1))
    return np.ascontiguousarray(np.stack(rows))


def reduced() -> Iterator[str]:
    """Yield the table of JPEGs decoded at a reduced scale, which is not used."""
    yield "\n## JPEG at a reduced scale: not used\n"
    yield "libjpeg can decode at 1/2, 1/4 or 1/8 (Pillow's `draft`), several times faster. A row may differ from timm's"
    yield f"tensors by {BOUND_LEVELS} level of 255. Compared with the full decode, for a target of 224 pixels:"
    yield "\n| JPEG | least size kept, x target | decoded at | largest difference, levels | values beyond the bound |"
    yield "|---|---|---|---|---|"
    retina = _encoded(Image.fromarray(skimage.data.retina()))  # type: ignore[no-untyped-call] # it has no types
    for name, encoded in (("coffee x 3", _photograph(3)), ("retina", retina)):
        full = Image.open(io.BytesIO(encoded)).convert("RGB")
        expected = np.asarray(resize_and_crop(full, SPEC)).astype(int)
        for gap in (1, 2, 4):
            draft = Image.open(io.BytesIO(encoded))
            draft.draft("RGB", (256 * gap, 256 * gap))
            if draft.size == full.size:
                continue
            difference = np.abs(np.asarray(resize_and_crop(draft.convert("RGB"), SPEC)) - expected)
            beyond = float((difference > BOUND_LEVELS).mean())
            size, smaller = (" x ".join(map(str, image.size)) for image in (full, draft))
            yield f"| {name}, {size} | {gap} | {smaller} | {difference.max()} | {beyond:.1%} |"


def _photograph(scale: int) -> bytes:
    image = Image.fromarray(skimage.data.coffee())  # type: ignore[no-untyped-call] # it has no types
    return _encoded(image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC))


def _encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="calls of each contender")
    rounds = parser.parse_args().rounds
    machine = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    head = [
        "# Pixels against floats\n",
        f"{machine}, torch {torch.__version__}, load before it (1 minute) {os.getloadavg()[0]:.1f}.",
        f"Command: `python benchmarks/pixels/run.py --rounds {rounds}`. Client and server share the cores.",
        "The contenders of a table ran alternately, and figures are medians.",
    ]
    lines = [*head, *wire(rounds), *decoding(rounds), *reduced()]
    (HERE / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
