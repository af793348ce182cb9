"""Clips become mono rows at the backbone's rate; an unusable clip is an error that names it."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import pytest
import torch

from midrib.backbones import Backbone, MediaError, load_backbone
from midrib.backbones._audio import audio_rows, resample
from midrib.backbones._nets.mel import mel_filters
from midrib.registry import AudioInput

AT_16K = AudioInput(16000)


def tone(rate: int, hertz: float = 440.0, seconds: float = 0.5) -> npt.NDArray[np.float64]:
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def test_rows_are_padded_with_zero_to_the_longest() -> None:
    """A batch is [rows, samples], float32."""
    batch = audio_rows([np.ones(5), np.ones(3, np.float32)], 16000, AT_16K)
    assert batch.dtype == np.float32
    assert batch.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_no_clips_give_no_rows() -> None:
    """An empty list gives an empty batch."""
    assert len(audio_rows([], 16000, AT_16K)) == 0


@pytest.mark.parametrize(
    ("clip", "samples"),
    [
        pytest.param(np.array([-32768, 0, 16384], np.int16), [-1.0, 0.0, 0.5], id="int16"),
        pytest.param(np.array([-(2**31), 2**30], np.int32), [-1.0, 0.5], id="int32"),
        pytest.param(np.array([-128, 0, 64], np.int8), [-1.0, 0.0, 0.5], id="int8"),
        pytest.param(np.array([-(2**63), 2**62]), [-1.0, 0.5], id="int64"),
        pytest.param(np.array([0, 128, 192], np.uint8), [-1.0, 0.0, 0.5], id="uint8"),
        pytest.param(np.array([0, 2**15, 3 * 2**14], np.uint16), [-1.0, 0.0, 0.5], id="uint16"),
        pytest.param(np.array([0, 2**31, 3 * 2**30], np.uint32), [-1.0, 0.0, 0.5], id="uint32"),
        pytest.param(np.array([0, 2**63, 3 * 2**62], np.uint64), [-1.0, 0.0, 0.5], id="uint64"),
        pytest.param(np.array([16384, 0], ">i2"), [0.5, 0.0], id="big-endian"),
        pytest.param(np.array([0.5, -0.25], np.float16), [0.5, -0.25], id="float16"),
        pytest.param(np.array([0, 0]), [0.0, 0.0], id="silence-as-int64"),
        pytest.param(np.array([-0.5, 0.25]), [-0.5, 0.25], id="floats"),
        pytest.param(np.array([[0.0, 1.0], [0.5, -0.5]]), [0.5, 0.0], id="stereo-is-averaged"),
    ],
)
def test_every_sample_format_is_brought_to_one_scale(clip: npt.NDArray[np.generic], samples: list[float]) -> None:
    """The full range of an integer type is scaled to -1..1; channels are averaged."""
    assert audio_rows([clip], 16000, AT_16K)[0].tolist() == samples


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_tone_survives_resampling(rate: int) -> None:
    """Away from its ends, a resampled sine equals the sine at the new rate within 0.2 %."""
    got = resample(tone(rate).astype(np.float32), rate, 16000)
    expected = tone(16000).astype(np.float32)
    assert abs(len(got) - len(expected)) <= 1
    assert float(np.abs(got[200:-200] - expected[200 : len(got) - 200]).max()) < 0.002


def test_frequencies_above_half_the_new_rate_are_removed() -> None:
    """A tone above half the new rate is removed, not aliased."""
    high = tone(48000, 11000).astype(np.float32)
    assert float(np.abs(resample(high, 48000, 16000)[200:-200]).max()) < 0.01


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        pytest.param([0.1, 0.2], "got list, expected a numpy array", id="a-list"),
        pytest.param(np.zeros(0), r"shape \(0,\).*not empty", id="empty"),
        pytest.param(np.zeros((2, 16000)), r"shape \(2, 16000\).*\[samples, channels\]", id="channels-first"),
        pytest.param(np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)", id="three-dimensional"),
        pytest.param(np.array([0.0, np.nan]), "NaN or infinite", id="nan"),
        pytest.param(np.array([0.0, np.inf]), "NaN or infinite", id="infinite"),
        pytest.param(np.zeros(4, np.complex64), "got samples of complex64", id="complex"),
        pytest.param(np.zeros(4, np.bool_), "got samples of bool, expected floats or integers", id="bool"),
        pytest.param(np.array([0, 32767]), "less than 32 of their 64 bits.*such as int16", id="int16-in-int64"),
    ],
)
def test_an_unusable_clip_is_an_error_of_that_item(clip: object, message: str) -> None:
    """The error names the item, so that the others can still be used."""
    with pytest.raises(MediaError, match=f"item 1: .*{message}") as caught:
        audio_rows([np.zeros(4), clip], 16000, AT_16K)  # type: ignore[list-item] # wrong on purpose
    assert caught.value.index == 1


def test_a_rate_must_be_positive() -> None:
    """A rate of 0 is refused for the whole call."""
    with pytest.raises(ValueError, match="got a rate of 0, expected a whole number of samples per second"):
        audio_rows([], 0, AT_16K)


@pytest.fixture(scope="module")
def voices() -> Backbone:
    if find_spec("resemblyzer") is None:  # not imported: it wants librosa, we want only its weights
        pytest.skip("Resemblyzer is not installed here: MIDRIB_EXTERNAL=1 puts it beside")
    return load_backbone("audio/embedding/resemblyzer")


def test_a_clip_embeds_the_same_beside_a_longer_one(voices: Backbone) -> None:
    """Padding does not change the features."""
    short, long = tone(16000, 200, 1.0), tone(16000, 300, 3.0)
    single = voices.embed_audio([short], 16000)
    beside = voices.embed_audio([long, short], 16000)
    assert torch.allclose(single[0], beside[1], atol=1e-5)


def test_silence_embeds_to_something_finite(voices: Backbone) -> None:
    """Digital silence gives finite features."""
    assert bool(voices.embed_audio([np.zeros(100)], 16000).isfinite().all())


def test_a_voice_equals_resemblyzers(voices: Backbone) -> None:
    """The features equal the package's to 1e-5, without its removal of silences."""
    for library in ("librosa", "webrtcvad"):
        pytest.importorskip(library, reason="the reference for this family")
    resemblyzer = pytest.importorskip("resemblyzer", reason="the reference for this family", exc_type=ImportError)
    clip = tone(16000, 220, 4.3) * 0.2
    expected = resemblyzer.VoiceEncoder("cpu", verbose=False).embed_utterance(clip.astype(np.float32))
    assert float(np.abs(voices.embed_audio([clip], 16000)[0].numpy() - expected).max()) <= 1e-5


@pytest.mark.parametrize("bins", [40, 80, 128])
def test_mel_filters_equal_those_of_transformers(bins: int) -> None:
    """The filters equal those of transformers to 1e-7."""
    audio_utils = pytest.importorskip("transformers.audio_utils", reason="the reference for this family")
    expected = audio_utils.mel_filter_bank(201, bins, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney").T
    assert float(np.abs(mel_filters(bins, fft=400, rate=16000).numpy() - expected).max()) < 1e-7
