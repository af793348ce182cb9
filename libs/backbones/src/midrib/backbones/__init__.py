"""Pretrained feature extractors by name, each with its preprocessing.

Use them with `load_backbone("image/classification/efficientnet-lite0").embed_images([...])`. Importing this package
imports neither torch nor Pillow; loading a backbone does.
"""

from midrib.backbones._allocator import keep_freed_memory, release_freed_memory, return_freed_memory
from midrib.backbones._backbone import Backbone, load_backbone
from midrib.backbones._catalogue import BACKBONES
from midrib.backbones._errors import InputKindError, MediaError, WeightsError
from midrib.backbones._tokens import Prompts, Tokenizer, Tokens

__all__ = [
    "BACKBONES",
    "Backbone",
    "InputKindError",
    "MediaError",
    "Prompts",
    "Tokenizer",
    "Tokens",
    "WeightsError",
    "keep_freed_memory",
    "load_backbone",
    "release_freed_memory",
    "return_freed_memory",
]
