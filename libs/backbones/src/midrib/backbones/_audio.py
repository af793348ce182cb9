"""Turn clips of sound into the rows that an audio backbone takes, without torch: a server decodes without it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from midrib.backbones._errors import MediaError, as_list
from midrib.registry import AudioInput

MAX_CHANNELS = 8
_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
# Bounds the size of the resampling filters: 44100 to 16000 needs 441 x 160, rates without a common divisor gigabytes.
_LARGEST_RATIO = 2**22
# numpy makes 64-bit integers of lists of samples of any width. Scaled by 2**63, those would be silence.
_WIDEST_BYTES = 8
_LEAST_OF_64_BITS = 2.0**32
_LARGEST_SAMPLE = float(np.finfo(np.float32).max)
# Elements of the windows that are multiplied at a time: windows overlap, so all of them would take many times the clip.
_BLOCK_ELEMENTS = 2**20


def audio_rows(clips: Sequence[npt.NDArray[np.generic]], rate: int, spec: AudioInput) -> npt.NDArray[np.float32]:
    """Turn clips into one batch: [rows, samples of the longest], float32, mono, at spec.rate, 0 where padded.

    clips: [samples] or [samples, channels] of at most 8 channels, which are averaged. Signed and unsigned integers of
    every width are scaled by their full range to -1..1; floats are taken as they are.
    rate: samples per second of the clips.
    Raises MediaError, with the item's index, for a clip that is none of these, empty or not finite, and for a rate
    that is not a positive whole number, or whose common divisor with spec.rate is so small that the filters would be
    huge. Raises TypeError for clips that are not in a sequence.
    """
    positive = isinstance(rate, Integral) and rate > 0
    if not positive or rate * spec.rate > _LARGEST_RATIO * math.gcd(rate, spec.rate) ** 2:
        raise MediaError(
            0,
            f"got a rate of {rate!r}, expected a whole number of samples per second, such as 16000 or 44100: "
            "resample it",
        )
    rows = [resample(_mono(i, clip), rate, spec.rate) for i, clip in enumerate(as_list("clip", clips))]
    batch = np.zeros((len(rows), max((len(row) for row in rows), default=1)), np.float32)
    for target, row in zip(batch, rows, strict=True):
        target[: len(row)] = row
    return batch


def _mono(index: int, clip: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Return a clip as [samples], float32. Raises MediaError if it is not usable."""
    if not isinstance(clip, np.ndarray):
        raise MediaError(index, f"got {type(clip).__name__}, expected a numpy array of samples")
    if clip.ndim not in (1, 2) or clip.size == 0 or (clip.ndim == 2 and clip.shape[1] > MAX_CHANNELS):
        raise MediaError(
            index,
            f"got an array of shape {clip.shape}, expected [samples] or [samples, channels], "
            f"not empty, of at most {MAX_CHANNELS} channels",
        )
    samples = _floating(index, clip)
    if not (np.abs(samples) <= _LARGEST_SAMPLE).all():
        raise MediaError(index, "the clip holds NaN or infinite samples: clean it first")
    return np.ascontiguousarray(samples.mean(axis=1) if clip.ndim == 2 else samples, dtype=np.float32)


def _floating(index: int, clip: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return a clip of any shape on the scale -1..1. Raises MediaError for other types than numbers."""
    if np.issubdtype(clip.dtype, np.floating):
        return clip.astype(np.float64)
    if clip.dtype.kind not in "iu":  # a span of time is an integer to numpy
        raise MediaError(index, f"got samples of {clip.dtype}, expected floats or integers")
    half = 2.0 ** (8 * clip.dtype.itemsize - 1)
    samples = clip.astype(np.float64) - (half if clip.dtype.kind == "u" else 0.0)
    if clip.dtype.itemsize == _WIDEST_BYTES and 0 < np.abs(samples).max() < _LEAST_OF_64_BITS:
        raise MediaError(
            index,
            f"got samples of {clip.dtype} that use less than 32 of their 64 bits, so their scale is unknown: "
            "convert them to the type that they were recorded in, such as int16, or to floats in -1..1",
        )
    return samples / half


def resample(samples: npt.NDArray[np.float32], rate: int, new_rate: int) -> npt.NDArray[np.float32]:
    """Resample [samples] at rate to [ceil(samples * new_rate / rate)] at new_rate, by a windowed sinc.

    Source: Smith, "Digital audio resampling", with torchaudio's defaults (Hann window of 6 crossings, roll-off 0.99).
    """
    if rate == new_rate:
        return samples
    common = math.gcd(rate, new_rate)
    old, new = rate // common, new_rate // common
    kernel, reach = _sinc_kernel(old, new)
    padded = np.pad(samples, (reach, reach + old))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[0])[::old]  # a view: [windows, taps]
    resampled = np.empty((len(windows), new), np.float32)
    step = max(1, _BLOCK_ELEMENTS // kernel.shape[0])
    for start in range(0, len(windows), step):
        np.matmul(windows[start : start + step], kernel, out=resampled[start : start + step])
    return resampled.reshape(-1)[: -(-new * len(samples) // old)]


def _sinc_kernel(old: int, new: int) -> tuple[npt.NDArray[np.float32], int]:
    """Return one filter per phase, [taps, new], and the number of old samples that it reaches to each side."""
    base = min(old, new) * _ROLLOFF
    reach = math.ceil(_ZERO_CROSSINGS * old / base)
    taps = np.arange(-reach, reach + old) / old
    phases = np.arange(0, -new, -1) / new
    time = ((phases + taps[:, None]) * base).clip(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = np.cos(time * math.pi / _ZERO_CROSSINGS / 2) ** 2
    return (np.sinc(time) * window * base / old).astype(np.float32), reach
