"""Audio backbones by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from midrib.backbones._weights import PackagedFile, load_strictly, read_state

if TYPE_CHECKING:
    from torch import nn

_VOICE_WEIGHTS = PackagedFile(
    "Resemblyzer",
    "resemblyzer",
    "pretrained.pt",
    "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
)


def load_resemblyzer(*, pretrained: bool = True, checkpoint: str | Path | None = None) -> tuple[nn.Module, int]:
    """Resemblyzer's speaker encoder: samples at 16 kHz to a voice's vector [rows, 256] of length 1.

    pretrained: load the weights that package Resemblyzer carries (only its file is used: install it with --no-deps);
    if False, random ones.  checkpoint: load this file of Resemblyzer's instead.
    Raises WeightsError if the weights cannot be had.
    """
    from midrib.backbones._nets.audio_encoder import VoiceEncoder

    module = VoiceEncoder()
    source = _VOICE_WEIGHTS.locate() if pretrained and checkpoint is None else checkpoint
    if source is not None:
        saved = read_state(source)
        state = saved.get("model_state", saved)
        own = {name: value for name, value in state.items() if not name.startswith("similarity_")}
        load_strictly(module, own, str(source))
    return module, 256
