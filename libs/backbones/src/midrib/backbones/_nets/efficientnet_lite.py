"""EfficientNet-Lite without its classifier."""

from __future__ import annotations

from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped] # it has no types
from torch import Tensor, nn


class EfficientNetLiteFeatures(nn.Module):
    """[rows, 3, size, size] to [rows, 1280]: the last feature map, averaged over its places.

    Source: Tan & Le 2019, in the Lite variant of the TensorFlow TPU models (ReLU6, no squeeze-and-excite).
    """

    def __init__(self, variant: int) -> None:
        super().__init__()
        self.net = EfficientNet.from_name(f"efficientnet-lite{variant}")
        del self.net._fc, self.net._dropout  # noqa: SLF001 (the classifier, which its author left no other way to drop)

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled features."""
        features: Tensor = self.net.extract_features(images).mean((2, 3))
        return features
