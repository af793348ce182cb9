"""Load any encoder of the `transformers` library, by its name on the hub or from a folder.

Only safetensors are read, and code that comes with a model is never run. Weights that the files lack are an error; the
library would fill them with random numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from midrib.backbones._errors import WeightsError
from midrib.backbones._loaders.hub import (
    auto,
    base_of,
    explained,
    fast_tokenizer,
    longest_text,
    refuse_adapter,
    require_mask_used,
    source_of,
)
from midrib.backbones._loaders.hub_cache import require_intact
from midrib.backbones._tokens import Prompts
from midrib.backbones._torchvision import import_transformers
from midrib.backbones._weights import require_fit

if TYPE_CHECKING:
    from torch import nn

    from midrib.backbones._nets.text_encoder import Pooling

# Parts that are not used: poolers, and the mask that wav2vec 2.0 uses in training.
_UNUSED = ("pooler.", "masked_spec_embed")


def load_transformers(
    name: str,
    *,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    pooling: Pooling = "mean",
    normalize: bool = False,
    prompt: str = "",
) -> tuple[nn.Module, int]:
    """Load an encoder of text (BERT, RoBERTa, T5, …) or of sound (wav2vec 2.0, HuBERT, WavLM, Whisper).

    It maps token ids [rows, tokens] or samples [rows, samples] to [rows, width], in float32.
    name: on the hub, such as "bert-base-uncased".  pretrained: fetch its weights; if False, random ones in the shape
    that checkpoint, or the hub's cache, describes.  checkpoint: a folder in the library's format, instead of the hub.
    pooling ("mean", "cls" or "max"), normalize and prompt (put before each text) are for text only.
    Raises WeightsError if the files cannot be found or read, or lack a weight or the tokenizer.
    """
    source = source_of(name, checkpoint)
    offline = not pretrained or checkpoint is not None
    refuse_adapter(source, offline=offline)
    config = auto("Config", base_of(source), local_files_only=offline)
    is_sound = hasattr(config, "feat_extract_norm") or config.model_type == "whisper"
    if not is_sound:
        _require_text_encoder(source, config)
    model = _model(source, config) if pretrained else _random(source, config)
    if is_sound:
        standardize = config.model_type != "whisper" and _standardizes(source, offline)
        return speech_backbone(model, standardize=standardize)
    return _text_backbone(source, model, offline, pooling=pooling, normalize=normalize, prompt=prompt)


def speech_backbone(model: Any, *, standardize: bool) -> tuple[nn.Module, int]:
    """Wrap a sound model of transformers: its encoder, averaged over time, [rows, samples] to [rows, width]."""
    from torch.nn.utils import parametrize

    from midrib.backbones._nets.audio_encoder import SpeechEncoder, WhisperFeatures

    if model.config.model_type == "whisper":
        return WhisperFeatures(model.get_encoder()), int(model.config.d_model)
    for layer in model.modules():
        # Weight normalisation is for training: computed once, the layer can be copied and pickled.
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")
            # The hook that is left behind is a local function, which cannot be pickled.
            layer._load_state_dict_pre_hooks.clear()  # noqa: SLF001
    module = SpeechEncoder(model, rate=16000, standardize=standardize)
    return module, int(model.config.hidden_size)


def load_speech(
    name: str,
    family: str,
    shape: dict[str, int],
    *,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
) -> tuple[nn.Module, int]:
    """Load a published sound encoder, averaged over time: samples at 16 kHz, [rows, samples], to [rows, width].

    pretrained: fetch its weights from the hub (or its cache); if False, random ones in its published shape.
    checkpoint: a folder in the format of transformers, used instead of the hub.
    Raises WeightsError if the weights cannot be found or do not fit.
    """
    transformers = import_transformers()

    if pretrained or checkpoint is not None:
        return load_transformers(name, checkpoint=checkpoint)
    config = getattr(transformers, f"{family}Config")(**shape)
    return speech_backbone(_random(name, config), standardize=True)


def _require_text_encoder(source: str, config: Any) -> None:
    """Raise WeightsError for a model that encodes neither text nor sound."""
    if not hasattr(config, "vocab_size") or not hasattr(config, "hidden_size"):
        raise WeightsError(
            f"{source} holds a model of type {config.model_type!r}, expected an encoder of text or of sound: "
            "for images use a name under timm/ or torchvision/"
        )


def _require_token_ids(source: str, model: Any) -> None:
    """Raise WeightsError for a model whose main input is not token ids."""
    if model.main_input_name != "input_ids":
        raise WeightsError(
            f"{source} holds a model of type {model.config.model_type!r} that takes {model.main_input_name}, which is "
            "not supported: expected an encoder of texts or of samples at 16 kHz, such as wav2vec2, hubert or whisper"
        )


def _text_backbone(
    source: str, model: Any, offline: bool, *, pooling: Pooling, normalize: bool, prompt: str
) -> tuple[nn.Module, int]:
    from midrib.backbones._nets.text_encoder import TextEncoder

    _require_token_ids(source, model)
    # Of an adapter's folder, peft writes no tokenizer.
    has_tokenizer = any(Path(source).glob("tokenizer*")) or any(Path(source).glob("vocab*"))
    tokenizer = auto("Tokenizer", source if has_tokenizer else base_of(source), local_files_only=offline)
    encoder = _encoder(source, model)
    longest = longest_text(model.config, tokenizer)
    tokens = fast_tokenizer(source, tokenizer, longest, Prompts(prompt))
    module = TextEncoder(encoder, tokens, max_tokens=longest, pooling=pooling, normalize=normalize)
    require_mask_used(source, module, model.config.model_type)
    return module, int(model.config.hidden_size)


def _encoder(source: str, model: Any) -> Any:
    """Return the part of a model that encodes, without its pooler.

    Raises WeightsError if that part has no configuration, as FSMT's: it is not a model of transformers then.
    """
    from torch import nn

    encoder = model.get_encoder() if _has_encoder_and_decoder(model) else model
    if not hasattr(encoder, "config"):
        raise WeightsError(
            f"{source} holds a model of type {model.config.model_type!r}, whose encoder cannot be used without the "
            "rest of the model: it is not supported, choose another model"
        )
    if getattr(encoder, "pooler", None) is not None:
        # The pooler is trained for another task, if it is trained at all; pooling is ours. Some models call it always.
        encoder.pooler = nn.Identity()
    return encoder


def _model(source: str, config: Any) -> Any:
    """Return the model with every weight loaded, converted to float32."""
    options = {"use_safetensors": True, "output_loading_info": True, "local_files_only": Path(source).is_dir()}
    model, report = auto("Model", source, config=config, **options)
    require_intact(source)
    require_every_weight(source, model, report)
    return model.float()


def require_every_weight(source: str, model: Any, report: dict[str, Any]) -> None:
    """Raise WeightsError, naming source, if transformers' report of a loading lists a missing weight that is used."""
    unused = (*_UNUSED, "decoder.") if _has_encoder_and_decoder(model) else _UNUSED
    missing = [name for name in report["missing_keys"] if not name.startswith(unused)]
    require_fit(type(model).__name__, source, {"lack": missing})


def _has_encoder_and_decoder(model: Any) -> bool:
    """Return whether a model has both, as T5 does: then only its encoder is used. Its configuration may not say so."""
    return all(getattr(model, part, None) is not None for part in ("encoder", "decoder"))


def _random(source: str, config: Any) -> Any:
    with explained(source):
        return import_transformers().AutoModel.from_config(config, trust_remote_code=False).float()


def _standardizes(source: str, offline: bool) -> bool:
    """Return whether clips were scaled to mean 0 and variance 1 in training, as the feature extractor's file says."""
    return bool(auto("FeatureExtractor", source, local_files_only=offline).do_normalize)
