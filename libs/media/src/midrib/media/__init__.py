"""Images of every kind as plain RGB pixels, and the files of folders. Needs Pillow and numpy, not torch or grpc."""

from midrib.media._decode import FORMATS, Decoded, ImageMedia, UnusableImageError, check_pictures, open_image
from midrib.media._folders import files_below, is_metadata_path
from midrib.media._to_rgb import to_rgb

__all__ = [
    "Decoded",
    "FORMATS",
    "ImageMedia",
    "UnusableImageError",
    "check_pictures",
    "files_below",
    "is_metadata_path",
    "open_image",
    "to_rgb",
]
