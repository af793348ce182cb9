"""Images of every kind as plain RGB pixels. Needs Pillow and numpy, but neither torch nor grpc."""

from midrib.media._decode import FORMATS, Decoded, ImageMedia, UnusableImageError, open_image
from midrib.media._to_rgb import to_rgb

__all__ = [
    "Decoded",
    "FORMATS",
    "ImageMedia",
    "UnusableImageError",
    "open_image",
    "to_rgb",
]
