"""Folders and files of sound."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types
import pytest
import soundfile
from pyarrow import parquet

from midrib.remote import embed_files
from midrib.remote._files.formats.audio_file import decode_clip, is_audio
from midrib.wire import Array, InvalidInputError


class Loudness:
    """Embeds a clip as its rate, its largest sample and its number of channels."""

    name, revision, num_features = "test/loudness", "r1", 3

    def __call__(self, kind: str, values: list[Any]) -> Array:
        assert kind == "audio"
        assert len({clip.rate for clip in values}) == 1
        rows = [(clip.rate, np.abs(clip.samples).max(), clip.samples.shape[1]) for clip in values]
        return np.array(rows, np.float32)


def encoded(level: float, rate: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full((64, 2), level, np.float32), rate, **{"format": "WAV", **options})
    return buffer.getvalue()


def with_length(wav: bytes, length: int) -> bytes:
    """The same file, whose header announces that many bytes of samples."""
    place = wav.index(b"data") + 4
    return wav[:place] + length.to_bytes(4, "little") + wav[place + 4 :]


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    (path / "a.wav").write_bytes(encoded(0.25, 8000, subtype="PCM_16"))
    (path / "b.flac").write_bytes(encoded(0.5, 16000, format="FLAC", subtype="PCM_24"))
    (path / "c.WAV").write_bytes(encoded(0.75, 8000, subtype="FLOAT"))
    return path


def test_a_folder_of_sound_is_embedded(tmp_path: Path, folder: Path) -> None:
    """Clips of several rates and widths, in the files' order."""
    embed_files(Loudness(), [folder], tmp_path / "out.npy")
    rows = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(rows, [[8000, 0.25, 2], [16000, 0.5, 2], [8000, 0.75, 2]], atol=1e-4)
    ids = json.loads((tmp_path / "out.npy.json").read_text())["ids"]
    assert [Path(item_id).name for item_id in ids] == ["a.wav", "b.flac", "c.WAV"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(b"", "cannot be decoded as sound", id="empty"),
        pytest.param(encoded(0.5, 8000)[:20], "cannot be decoded as sound", id="cut in the header"),
        pytest.param(b"RIFF but not sound", "cannot be decoded as sound", id="another file"),
        pytest.param(with_length(encoded(0.5, 8000)[:44], 0), "holds no samples", id="no samples"),
    ],
)
def test_a_file_that_is_no_sound_is_a_bad_item(tmp_path: Path, folder: Path, content: bytes, error: str) -> None:
    """The file is listed as bad, and the others are embedded."""
    (folder / "b.flac").write_bytes(content)
    progress = embed_files(Loudness(), [folder], tmp_path / "out.npy")
    (line,) = (tmp_path / "out.npy.bad.jsonl").read_text().splitlines()
    assert (progress.done, progress.bad) == (3, 1)
    assert error in json.loads(line)["error"]


def test_a_column_may_hold_sound(tmp_path: Path) -> None:
    """A column holds the bytes of files, or Hugging Face's {bytes, path}."""
    plain = pa.table({"sound": pa.array([encoded(0.5, 8000)], pa.binary())})
    parquet.write_table(plain, tmp_path / "a.parquet")
    dataset = pa.table({"sound": [{"bytes": encoded(0.25, 8000), "path": "x.wav"}]})
    parquet.write_table(dataset, tmp_path / "b.parquet")
    tables = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    embed_files(Loudness(), tables, tmp_path / "out.npy", column="sound")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy")[:, 1], [0.5, 0.25], atol=1e-4)


def test_without_soundfile_the_extra_is_named(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes before the backbone loads, for files and for columns of sound."""
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(InvalidInputError, match=r"a\.wav needs soundfile: pip install 'midrib-remote\[audio\]'"):
        embed_files(Loudness(), [folder], tmp_path / "out.npy")
    parquet.write_table(pa.table({"sound": [(folder / "a.wav").read_bytes()]}), tmp_path / "t.parquet")
    with pytest.raises(InvalidInputError, match=r"t\.parquet needs soundfile"):
        embed_files(Loudness(), [tmp_path / "t.parquet"], tmp_path / "out.npy", column="sound")


@pytest.mark.parametrize("chunk", [b"", b"LIST\x05\x00\x00\x00INFOx\x00"], ids=["plain", "odd-chunk-before"])
def test_a_wav_that_is_cut_short_is_refused(chunk: bytes) -> None:
    """libsndfile returns the samples that are there: another clip, and no error."""
    plain = encoded(0.5, 8000, subtype="PCM_16")
    wav = plain[:36] + chunk + plain[36:]
    with pytest.raises(InvalidInputError, match="it is cut short, 100 bytes of its samples are missing"):
        decode_clip(wav[:-100])
    assert len(decode_clip(wav).samples) == 64


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF], ids=hex)
def test_a_wav_of_unknown_length_is_read_to_its_end(length: int) -> None:
    """Programs that write into a pipe cannot know the length."""
    assert len(decode_clip(with_length(encoded(0.5, 8000, subtype="PCM_16"), length)).samples) == 64


def test_bytes_of_mp3_are_known_as_sound() -> None:
    """Also without an ID3 tag, as most programs write them; a JPEG begins with FF too."""
    assert is_audio(encoded(0.5, 8000, format="MP3", subtype="MPEG_LAYER_III"))
    assert not is_audio(b"\xff\xd8\xff\xe0")
    assert not is_audio(b"\xff")


def test_the_error_of_bytes_that_are_no_sound_names_no_object() -> None:
    """soundfile's own text holds the address of the stream."""
    with pytest.raises(InvalidInputError, match=r"cannot be decoded as sound: Format not recognised"):
        decode_clip(b"no sound at all" * 10)
