"""Loaders of audio backbones with their own names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from midrib.backbones._loaders.checkpoints import read_state, unwrapped
from midrib.backbones._weights import PackagedFile, load_strictly

if TYPE_CHECKING:
    from torch import nn

_VOICE_WEIGHTS = PackagedFile(
    "Resemblyzer",
    "resemblyzer",
    "pretrained.pt",
    "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
)


def load_resemblyzer(*, pretrained: bool = True, checkpoint: str | Path | None = None) -> tuple[nn.Module, int]:
    """Load Resemblyzer's speaker encoder: samples at 16 kHz, [rows, samples], to voice vectors [rows, 256] of length 1.

    pretrained: load the weights in package Resemblyzer (only its file is used: install it with --no-deps); if False,
    random ones.  checkpoint: load this file in Resemblyzer's format instead.
    Raises WeightsError if the weights cannot be found or do not fit.
    """
    from midrib.backbones._nets.audio_encoder import VoiceEncoder

    module = VoiceEncoder()
    source = _VOICE_WEIGHTS.locate() if pretrained and checkpoint is None else checkpoint
    if source is not None:
        state = unwrapped(read_state(source), module.state_dict().keys(), source=str(source))
        weights = {name: value for name, value in state.items() if not name.startswith("similarity_")}
        load_strictly(module, weights, str(source))
    return module, 256
