"""Files of sound: .wav, .flac and the other formats of libsndfile."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from typing import Final

from midrib.wire import Array, InvalidInputError

AUDIO_SUFFIXES: Final = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"})
_FIRST_BYTES: Final = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM")
_WEBP: Final = b"WEBP"


@dataclass(frozen=True)
class Clip:
    """A sound.  samples: [samples, channels], float32 in -1..1.  rate: samples per second."""

    samples: Array
    rate: int


def is_audio(encoded: bytes) -> bool:
    """Return whether the bytes begin as a file of sound does."""
    return encoded.startswith(_FIRST_BYTES) and encoded[8:12] != _WEBP


def check_audio(name: str) -> None:
    """Raise InvalidInputError, with the install line, if files of sound cannot be read here."""
    if importlib.util.find_spec("soundfile") is None:
        raise InvalidInputError(f"{name} needs soundfile: pip install 'midrib-remote[audio]'")


def decode_clip(encoded: bytes) -> Clip:
    """Return the decoded file. Raises InvalidInputError for bytes that are not a whole file of sound."""
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, ValueError, TypeError) as error:
        raise InvalidInputError(f"it cannot be decoded as sound: {error}") from error
    if not len(samples):
        raise InvalidInputError("it holds no samples")
    return Clip(samples, rate)
