"""Networks over sound that return one row of features per clip.

All take samples [rows, samples], floating in -1..1, with zeros after the end of a clip. The zeros are left out: clips
of one length run together, without padding, so that the features of a clip do not depend on the rest of its batch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from midrib.backbones._nets.mel import mel_filters, power_spectrogram
from midrib.registry import AudioInput


class _ClipNetwork(nn.Module):
    """The common part: finding where a clip ends."""

    shortest = 1

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.input = AudioInput(rate)

    def forward(self, samples: Tensor) -> Tensor:
        """Return [rows, width] for samples [rows, samples]."""
        lengths = self._lengths(samples)
        padded = functional.pad(samples, (0, max(0, self.shortest - samples.shape[1])))
        rows: list[Tensor | None] = [None] * len(samples)
        for length in sorted(set(lengths)):
            places = [place for place, clip_length in enumerate(lengths) if clip_length == length]
            for place, features in zip(places, self._features(padded[places, :length]), strict=True):
                rows[place] = features
        return torch.stack([row for row in rows if row is not None])

    def _lengths(self, samples: Tensor) -> list[int]:
        """Return the number of samples of each row of samples [rows, samples], up to its last that is not zero."""
        places = torch.arange(1, samples.shape[1] + 1, device=samples.device)
        return [max(self.shortest, int(end)) for end in ((samples != 0) * places).amax(1)]

    @abstractmethod
    def _features(self, clips: Tensor) -> Tensor:
        """Return [rows, width] for clips [rows, samples] of one length, without padding."""


class SpeechEncoder(_ClipNetwork):
    """wav2vec 2.0 or a relative of it, of `transformers`, averaged over time: [rows, samples] to [rows, width].

    standardize: scale each clip to mean 0 and variance 1 first, as most of the family were trained.
    """

    # The convolutions' receptive field, 25 ms.
    shortest = 400

    def __init__(self, encoder: Any, *, rate: int, standardize: bool) -> None:
        super().__init__(rate)
        self.encoder = encoder
        self.standardize = standardize

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the features besides the weights, for the revision."""
        return {"standardize": self.standardize}

    def _features(self, clips: Tensor) -> Tensor:
        if self.standardize:
            variance = clips.var(1, keepdim=True, correction=0)
            clips = (clips - clips.mean(1, keepdim=True)) / torch.sqrt(variance + 1e-7)
        frames: Tensor = self.encoder(clips).last_hidden_state
        return frames.mean(1)


class WhisperFeatures(_ClipNetwork):
    """Whisper's encoder, of `transformers`, averaged over the frames with sound: [rows, samples] to [rows, width].

    Clips longer than its window of 30 seconds are split into windows. Source: Radford et al. 2022.
    """

    _RATE, _FFT, _HOP, _WINDOW = 16000, 400, 160, 480000

    def __init__(self, encoder: Any) -> None:
        super().__init__(self._RATE)
        self.encoder = encoder
        filters = mel_filters(encoder.config.num_mel_bins, fft=self._FFT, rate=self._RATE)
        self.register_buffer("filters", filters, persistent=False)
        self.filters: Tensor

    def _features(self, clips: Tensor) -> Tensor:
        windows = [self._frames(window) for window in torch.split(clips, self._WINDOW, dim=1)]
        return torch.cat(windows, 1).mean(1)

    def _frames(self, clips: Tensor) -> Tensor:
        sound = clips.shape[1]
        window = functional.pad(clips, (0, self._WINDOW - sound))
        frames: Tensor = self.encoder(self.log_mel(window)).last_hidden_state
        # The encoder halves the rate of the spectrogram's frames.
        return frames[:, : math.ceil(sound / (2 * self._HOP))]

    def log_mel(self, window: Tensor) -> Tensor:
        """Return Whisper's spectrogram, [rows, bins, 3000], for windows of 30 seconds, [rows, 480000]."""
        power = power_spectrogram(window, fft=self._FFT, hop=self._HOP, pad_mode="reflect")[..., :-1]
        log = torch.log10((self.filters @ power).clamp(min=1e-10))
        return (torch.maximum(log, log.amax((1, 2), keepdim=True) - 8) + 4) / 4


class VoiceEncoder(_ClipNetwork):
    """Resemblyzer's speaker encoder: [rows, samples] at 16 kHz to [rows, 256] of length 1.

    It averages partial utterances of 1.6 s, as Resemblyzer does and with its parameter names. Resemblyzer also removes
    silences, with a speech detector that is not included: cut long silences out before.
    Source: Wan et al. 2018, "Generalized end-to-end loss for speaker verification".
    """

    _RATE, _FFT, _HOP = 16000, 400, 160
    _PARTIAL, _STEP, _COVERAGE = 160, 77, 0.75  # frames, frames, the least share of sound in the last partial
    _LOUDNESS = 10 ** (-30 / 20)  # quieter clips are raised to this

    def __init__(self) -> None:
        super().__init__(self._RATE)
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        self.register_buffer("filters", mel_filters(40, fft=self._FFT, rate=self._RATE), persistent=False)
        self.filters: Tensor

    def _features(self, clips: Tensor) -> Tensor:
        loudness = clips.square().mean(1, keepdim=True).sqrt().clamp(min=1e-8)
        clips = clips * (self._LOUDNESS / loudness).clamp(min=1)
        starts = self._starts(clips.shape[1])
        reach = (starts[-1] + self._PARTIAL) * self._HOP
        clips = functional.pad(clips, (0, max(0, reach - clips.shape[1])))
        power = power_spectrogram(clips, fft=self._FFT, hop=self._HOP, pad_mode="constant")
        mels = (self.filters @ power).transpose(1, 2)
        partials = torch.stack([mels[:, start : start + self._PARTIAL] for start in starts], 1)
        _, (hidden, _) = self.lstm(partials.flatten(0, 1))
        voices = functional.normalize(functional.relu(self.linear(hidden[-1])))
        return functional.normalize(voices.view(len(clips), len(starts), -1).mean(1))

    def _starts(self, samples: int) -> list[int]:
        """Return the first frame of each partial utterance; the last is left out if it holds too little sound."""
        frames = math.ceil((samples + 1) / self._HOP)
        starts = list(range(0, max(1, frames - self._PARTIAL + self._STEP + 1), self._STEP))
        covered = (samples - starts[-1] * self._HOP) / (self._PARTIAL * self._HOP)
        return starts[:-1] if covered < self._COVERAGE and len(starts) > 1 else starts
