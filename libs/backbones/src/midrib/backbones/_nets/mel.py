"""Mel spectrograms as audio models expect them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

# Slaney's scale: linear below 1 kHz, logarithmic above.
_HZ_PER_MEL = 200 / 3
_BREAK_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27


def power_spectrogram(samples: Tensor, *, fft: int, hop: int, pad_mode: str) -> Tensor:
    """Return the squared magnitudes of centred Hann windows.

    samples: [rows, samples].  Returns [rows, fft // 2 + 1, 1 + samples // hop].
    """
    padded = functional.pad(samples.unsqueeze(1), (fft // 2, fft // 2), mode=pad_mode).squeeze(1)
    window = torch.hann_window(fft, device=samples.device, dtype=samples.dtype)
    spectrum = torch.stft(padded, fft, hop, window=window, center=False, return_complex=True)
    return spectrum.abs().square()


def mel_filters(bins: int, *, fft: int, rate: int) -> Tensor:
    """Return triangular filters of equal area, [bins, fft // 2 + 1], from 0 to rate / 2.

    Source: Slaney's Auditory Toolbox, as in librosa and transformers.
    """
    breaks = _BREAK_HZ / _HZ_PER_MEL
    top = breaks + math.log(rate / 2 / _BREAK_HZ) / _LOG_STEP
    mels = torch.linspace(0, top, bins + 2, dtype=torch.float64)
    edges = torch.where(
        mels < breaks, mels * _HZ_PER_MEL, _BREAK_HZ * torch.exp((mels - breaks).clamp(min=0) * _LOG_STEP)
    )
    ramps = edges[:, None] - torch.linspace(0, rate / 2, fft // 2 + 1, dtype=torch.float64)
    widths = edges.diff()[:, None]
    rising, falling = -ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]
    filters = torch.minimum(rising, falling).clamp(min=0) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return filters.to(torch.float32)
