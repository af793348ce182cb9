"""The kinds of data: which files hold them, which columns, and how one value is read and checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midrib.backbones import MediaError
from midrib.backbones._audio import audio_rows
from midrib.backbones._images import prepare_images
from midrib.registry import AudioInput, ImageInput, InputSpec, TensorInput, TextInput
from midrib.task._features.media import clip_of, image_of, text_of

_SMALL = ImageInput(8)
_ANY_RATE = 16000


@dataclass(frozen=True)
class Kind:
    """One kind of data.

    name: used in errors.  input: what its backbones take.  suffixes: the endings of its files, in lower case.
    columns: the usual names of a table's column with it; none for rows of numbers, which are several columns.
    source: turns a value of a table, and the table's folder, into a source; raises ValueError with the reason.
    check: raises ValueError, with the reason, for a source that cannot be used.
    """

    name: str
    input: type
    suffixes: frozenset[str]
    columns: tuple[str, ...]
    source: Callable[[Any, Path], Any]
    check: Callable[[Any], object]

    def problem(self, source: Any) -> str | None:
        """Return the reason why a source cannot be used, None if it can."""
        try:
            self.check(source)
        except MediaError as error:
            return error.problem
        except ValueError as error:
            return str(error)
        return None


def _file_or_value(value: Any, folder: Path) -> Any:
    """Return a string as a path, from the table's folder or the working directory; all else unchanged."""
    if not isinstance(value, str):
        return value
    path = folder / value
    return path if path.exists() else Path(value)


def _text(value: Any, _: Path) -> Any:
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
    ):
        return str(value)
    return value


def _numbers(value: Any, _: Path) -> Any:
    """Return the value as numbers. Raises ValueError if it has others."""
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{value!r:.80} are not all numbers: name the columns of numbers by input=[...], or --input each"
        ) from error


def _check_text(source: Any) -> None:
    """Raise ValueError for an empty text."""
    if not text_of(source).strip():
        raise ValueError("the text is empty")


def _check_clip(source: Any) -> object:
    clip = clip_of(source, _ANY_RATE)
    return audio_rows([clip.samples], clip.rate, AudioInput(clip.rate))


def _check_numbers(source: Any) -> None:
    """Raise ValueError for a row with a value that is not finite."""
    row = np.asarray(source)
    if not np.issubdtype(row.dtype, np.number) or not np.isfinite(row).all():
        raise ValueError(f"the row has a value that is not a finite number: {row.tolist()!r:.80}")


IMAGES = Kind(
    "images",
    ImageInput,
    frozenset(
        {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic", ".heif"}
    ),
    ("image", "img", "file", "filename", "file_name", "path", "filepath", "image_path"),
    _file_or_value,
    lambda source: prepare_images([image_of(source)], _SMALL),
)
TEXTS = Kind("texts", TextInput, frozenset({".txt"}), ("text", "sentence", "content", "review"), _text, _check_text)
CLIPS = Kind(
    "audio",
    AudioInput,
    frozenset({".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"}),
    ("audio", "file", "filename", "file_name", "path", "filepath", "audio_path"),
    _file_or_value,
    _check_clip,
)
ROWS = Kind("rows of numbers", TensorInput, frozenset(), (), _numbers, _check_numbers)


def kind_of(spec: InputSpec | None) -> Kind:
    """Return the kind of data that a backbone takes; rows of numbers if it does not declare its input."""
    return next((kind for kind in (IMAGES, TEXTS, CLIPS) if isinstance(spec, kind.input)), ROWS)
