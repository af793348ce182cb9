"""Files of sound: .wav, .flac and the other formats of libsndfile."""

from __future__ import annotations

import importlib.util
import io
import struct
from dataclasses import dataclass
from typing import Final

from midrib.wire import Array, InvalidInputError

AUDIO_SUFFIXES: Final = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"})
_FIRST_BYTES: Final = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM")
_WEBP: Final = b"WEBP"
# The first 11 bits of an MPEG frame are set, and the two bits of its layer are not both 0. JPEG starts with FF D8.
_MPEG_SYNC: Final = 0xE0
_MPEG_LAYER: Final = 0x06
# Programs that write WAV into a pipe do not know its length: they write 0, 0xFFFFFFFF or about 2**31.
_UNKNOWN_LENGTH: Final = 0x7FFF0000
_RIFF_HEADER: Final = 12


@dataclass(frozen=True)
class AudioSamples:
    """A sound.  samples: [samples, channels], float32 in -1..1.  rate: samples per second."""

    samples: Array
    rate: int


def is_audio(encoded: bytes) -> bool:
    """Return whether the bytes begin as a file of sound does."""
    if encoded.startswith(_FIRST_BYTES):
        return encoded[8:12] != _WEBP
    return encoded[:1] == b"\xff" and encoded[1:2] >= bytes([_MPEG_SYNC]) and bool(encoded[1] & _MPEG_LAYER)


def check_audio(name: str) -> None:
    """Raise InvalidInputError, with the install line, if files of sound cannot be read here."""
    if importlib.util.find_spec("soundfile") is None:
        raise InvalidInputError(f"{name} needs soundfile: pip install 'midrib-remote[audio]'")


def decode_clip(encoded: bytes) -> AudioSamples:
    """Return the decoded file. Raises InvalidInputError for bytes that are not a whole file of sound."""
    import soundfile

    if missing := _missing_bytes(encoded):
        raise InvalidInputError(f"it is cut short, {missing} bytes of its samples are missing: copy it again, whole")
    try:
        samples, rate = soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InvalidInputError(f"it cannot be decoded as sound: {error.error_string}") from error
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"it cannot be decoded as sound: {error}") from error
    if not len(samples):
        raise InvalidInputError("it holds no samples")
    return AudioSamples(samples, rate)


def _missing_bytes(encoded: bytes) -> int:
    """Return how many bytes a WAV file lacks of the samples that its header announces; libsndfile does not say it."""
    place = _RIFF_HEADER if encoded.startswith(b"RIFF") else len(encoded)
    while place + 8 <= len(encoded):
        kind, length = struct.unpack_from("<4sI", encoded, place)
        if kind == b"data":
            return max(0, place + 8 + length - len(encoded)) if length < _UNKNOWN_LENGTH else 0
        place += 8 + length + length % 2
    return 0
