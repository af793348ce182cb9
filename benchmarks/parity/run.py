"""Compare our features with those of the libraries that define the backbones, over awkward inputs.

    python benchmarks/parity/run.py [PART_OF_A_NAME ...]

prints the table of README.md; exit status 1 if a difference is larger than allowed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from media import make_clips, make_images, make_texts
from subjects import Subject, subjects
from torch import Tensor

from midrib.registry import ImageInput

# Very long pictures are scaled in their kept part only, where a value may be rounded to the other side.
MAX_LEVELS: Final = 1.01
MAX_BEYOND_ONE: Final = 0.0
MAX_DIFFERENCE: Final = 1e-5
_HEADS: Final = (
    *("backbone", "reference", "items", "pixels: levels", "over one", "network", "end to end"),
    *("smallest cosine", "worst item"),
)


@dataclass(frozen=True)
class PixelDifference:
    """Between prepared pictures.

    levels: the largest, of 256.  beyond_one: the share of values that are over one level apart.
    """

    levels: float
    beyond_one: float

    @property
    def allowed(self) -> bool:
        """Whether the differences are within the bounds above."""
        return self.levels <= MAX_LEVELS and self.beyond_one <= MAX_BEYOND_ONE


@dataclass(frozen=True)
class Difference:
    """Between our features and the library's.

    items: compared.  pixels: of images, of the prepared ones; None for others.
    network: the largest difference of a feature, as a share of the largest feature of that item; of images, from the
    library's pixels.
    end_to_end, cosine: the same from our own pixels, and the smallest cosine between two rows of one item.
    worst: the item of `end_to_end`.
    """

    items: int
    pixels: PixelDifference | None
    network: float
    end_to_end: float
    cosine: float
    worst: str

    @property
    def allowed(self) -> bool:
        """Whether the differences are within the bounds above."""
        return self.network <= MAX_DIFFERENCE and (self.pixels is None or self.pixels.allowed)


def compare(subject: Subject, items: Sequence[tuple[str, Any]]) -> Difference:
    """Return how far our features of items, embedded as one batch, are from the library's, one item at a time."""
    inputs = [item for _, item in items]
    features = _embed(subject, inputs)
    with torch.inference_mode():
        expected = torch.stack([subject.embed(item) for item in inputs])
    if features.shape != expected.shape:
        raise ValueError(
            f"{subject.name} gives {list(features.shape)}, {subject.reference} gives {list(expected.shape)}"
        )
    end_to_end = _shares(features, expected)
    difference, network = None, end_to_end
    if subject.prepare is not None:
        pixels = torch.stack([subject.prepare(item) for item in inputs])
        difference, network = _pixels(subject, inputs, pixels), _shares(subject.backbone.embed(pixels), expected)
    worst = int(end_to_end.argmax())
    cosines = torch.nn.functional.cosine_similarity(features.double(), expected.double(), dim=1)
    largest = float(end_to_end[worst])
    return Difference(len(items), difference, float(network.max()), largest, float(cosines.min()), items[worst][0])


def _shares(features: Tensor, expected: Tensor) -> Tensor:
    """Return the largest difference of each row, as a share of its largest feature."""
    differences = (features.double() - expected.double()).abs().amax(dim=1)
    return differences / expected.double().abs().amax(dim=1).clamp(min=1e-12)


def _pixels(subject: Subject, paths: list[Path], pixels: Tensor) -> PixelDifference:
    """Compare our prepared pictures with the library's."""
    spec = subject.backbone.input
    if not isinstance(spec, ImageInput):
        raise TypeError(f"{subject.name} takes {spec}, expected images")
    features = subject.backbone.prepare_images([path.read_bytes() for path in paths])
    levels = ((features - pixels) * torch.tensor(spec.std)[:, None, None] * 255).abs()
    return PixelDifference(float(levels.max()), float((levels > 1.01).float().mean()))  # 0.01: float32


def _embed(subject: Subject, items: list[Any]) -> Tensor:
    if subject.kind == "image":
        return subject.backbone.embed_images([path.read_bytes() for path in items])
    if subject.kind == "text":
        return subject.backbone.embed_texts(items)
    (rate,) = {rate for _, rate in items}  # the clips have one rate: resampling is compared by the tests
    return subject.backbone.embed_audio([samples for samples, _ in items], rate)


def main(parts: Sequence[str]) -> int:
    """Print a line for each backbone whose name has one of the parts, all without parts; return the exit status."""
    torch.set_num_threads(1)
    failed = 0
    _say(f"| {' | '.join(_HEADS)} |")
    _say("|---" * len(_HEADS) + "|")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "images").mkdir()
        media: dict[str, list[tuple[str, Any]]] = {
            "image": [(path.name, path) for path in make_images(scratch / "images")],
            "text": [(repr(text[:24]), text) for text in make_texts()],
            "audio": [(f"clip {number}", clip) for number, clip in enumerate(make_clips())],
        }
        for subject in subjects(scratch):
            if parts and not any(part in subject.name for part in parts):
                continue
            difference = compare(subject, media[subject.kind])
            failed += not difference.allowed
            _say(_line(subject, difference))
    return int(failed > 0)


def _line(subject: Subject, difference: Difference) -> str:
    pixels = difference.pixels
    levels = " | " if pixels is None else f"{pixels.levels:.2f} | {pixels.beyond_one:.4%}"
    mark = "" if difference.allowed else " **too far**"
    return (
        f"| {subject.name} | {subject.reference} | {difference.items} | {levels} | {difference.network:.1e}{mark} "
        f"| {difference.end_to_end:.1e} | {difference.cosine:.6f} | {difference.worst} |"
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
