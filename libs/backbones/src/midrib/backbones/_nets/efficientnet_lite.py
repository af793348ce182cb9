"""EfficientNet-Lite without its classifier."""

from __future__ import annotations

from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped] # it has no types
from torch import Tensor, nn


class EfficientNetLiteFeatures(nn.Module):
    """The last feature map of EfficientNet-Lite, averaged over its places: [rows, 3, size, size] to [rows, 1280].

    Source: Tan & Le 2019, in the Lite variant of the TensorFlow TPU models (ReLU6, no squeeze-and-excite).
    """

    def __init__(self, variant: int) -> None:
        super().__init__()
        self.net = EfficientNet.from_name(f"efficientnet-lite{variant}")
        del self.net._fc, self.net._dropout  # noqa: SLF001 (the classifier, which has no public name)

    def forward(self, images: Tensor) -> Tensor:
        """Return pooled features [rows, 1280] for images [rows, 3, size, size]."""
        features: Tensor = self.net.extract_features(images).mean((2, 3))
        return features
