"""Any encoder of the `transformers` and `sentence-transformers` libraries, by its name on the hub.

Only safetensors are read, and no code that comes with a model is run. What the files do not hold is an error, where the
libraries would fill it with random numbers.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midrib.backbones._errors import WeightsError
from midrib.backbones._torchvision import import_transformers

if TYPE_CHECKING:
    from torch import nn

    from midrib.backbones._nets.text_encoder import Pooling
    from midrib.backbones._texts import FastTokenizer

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_LONGEST = 8192


def load_transformers(
    name: str,
    *,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    pooling: Pooling = "mean",
    normalize: bool = False,
    prompt: str = "",
) -> tuple[nn.Module, int]:
    """An encoder of text (BERT, RoBERTa, T5, …) or of sound (wav2vec 2.0, HuBERT, WavLM, Whisper): [rows, width].

    name: on the hub, such as "bert-base-uncased".  pretrained: fetch its weights; if False, random ones in the shape
    that checkpoint, or the hub's cache, describes.  checkpoint: a folder in the library's format, instead of the hub.
    pooling ("mean", "cls" or "max"), normalize and prompt (put before each text) are for text alone.
    Raises WeightsError if the files cannot be had, or lack a weight.
    """
    transformers = import_transformers()

    where = _source(name, checkpoint)
    offline = not pretrained or checkpoint is not None
    with _explained(name):
        config = transformers.AutoConfig.from_pretrained(where, local_files_only=offline)
    model = _model(name, where, config) if pretrained else _random(config)
    if hasattr(config, "feat_extract_norm") or config.model_type == "whisper":
        standardize = config.model_type != "whisper" and _standardizes(where, offline)
        return speech_backbone(model, standardize=standardize)
    return _text_backbone(name, where, model, offline, pooling=pooling, normalize=normalize, prompt=prompt)


def speech_backbone(model: Any, *, standardize: bool) -> tuple[nn.Module, int]:
    """Wrap a sound model of transformers: its encoder, averaged over time."""
    from torch.nn.utils import parametrize

    from midrib.backbones._nets.audio_encoder import SpeechEncoder, WhisperFeatures

    if model.config.model_type == "whisper":
        return WhisperFeatures(model.get_encoder()), int(model.config.d_model)
    for layer in model.modules():
        # Weight normalisation is for training: computed once, the layer can be copied and pickled.
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")
            # Left behind, a local function, which no pickle takes.
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
    """A published sound encoder, averaged over time: samples at 16 kHz to [rows, width].

    pretrained: fetch its weights from the hub (or its cache); if False, random ones in its published shape.
    checkpoint: a folder in the format of transformers, used instead of the hub.
    Raises WeightsError if the weights cannot be had.
    """
    transformers = import_transformers()

    if pretrained or checkpoint is not None:
        return load_transformers(name, checkpoint=checkpoint)
    config = getattr(transformers, f"{family}Config")(**shape)
    return speech_backbone(_random(config), standardize=True)


def load_sentence_transformers(
    name: str,
    *,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> tuple[nn.Module, int]:
    """A pipeline of sentence-transformers, with its own pooling, projections and normalisation: [rows, width].

    name: on the hub; without an owner, sentence-transformers' own.  checkpoint: a folder in the library's format, used
    instead.  prompt_name: which of the model's own prompts to put before each text, by default the one that it names;
    prompt: one in its place.  pretrained=False needs a checkpoint: the files are what defines a pipeline.
    Raises WeightsError if the files cannot be had.
    """
    if not pretrained and checkpoint is None:
        raise WeightsError(f"a pipeline such as {name} is defined by its files: without them, pass checkpoint=FOLDER")
    import_transformers()
    from sentence_transformers import SentenceTransformer

    where = _source(name if "/" in name else f"sentence-transformers/{name}", checkpoint)
    with _explained(name):
        pipeline = SentenceTransformer(
            where,
            device="cpu",
            local_files_only=checkpoint is not None,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    if prompt is None:
        prompt = _own_prompt(name, pipeline, prompt_name)
    return _sentence_backbone(pipeline, prompt)


def _sentence_backbone(pipeline: Any, prompt: str) -> tuple[nn.Module, int]:
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    from midrib.backbones._nets.text_encoder import SentenceEncoder, StaticTextEncoder
    from midrib.backbones._texts import FastTokenizer

    width = int(pipeline.get_embedding_dimension())
    first = pipeline[0]
    if isinstance(first, StaticEmbedding):
        tokenizer = FastTokenizer(first.tokenizer, max_tokens=_LONGEST, prompt=prompt, shift=1, special=False)
        normalize = any(isinstance(step, Normalize) for step in pipeline)
        vectors = first.embedding.weight.detach()
        return StaticTextEncoder(vectors, tokenizer, max_tokens=_LONGEST, normalize=normalize), width
    config = first.auto_model.config
    longest = pipeline.max_seq_length or _longest(config, pipeline.tokenizer)
    tokenizer = _fast(pipeline.tokenizer, longest, prompt)
    return SentenceEncoder(pipeline, tokenizer, max_tokens=longest, vocabulary=config.vocab_size), width


def _own_prompt(name: str, pipeline: Any, prompt_name: str | None) -> str:
    chosen = prompt_name or pipeline.default_prompt_name
    if chosen is None:
        return ""
    if chosen not in pipeline.prompts:
        raise ValueError(f"{name} has no prompt {chosen!r}: it has {', '.join(map(repr, pipeline.prompts)) or 'none'}")
    return str(pipeline.prompts[chosen])


def _text_backbone(
    name: str, where: str, model: Any, offline: bool, *, pooling: Pooling, normalize: bool, prompt: str
) -> tuple[nn.Module, int]:
    transformers = import_transformers()

    from midrib.backbones._nets.text_encoder import TextEncoder

    with _explained(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, local_files_only=offline)
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    if getattr(encoder, "pooler", None) is not None:
        # A pooler is trained for another task, where it is trained at all; we pool ourselves.
        encoder.pooler = None
    longest = _longest(model.config, tokenizer)
    fast = _fast(tokenizer, longest, prompt)
    module = TextEncoder(encoder, fast, max_tokens=longest, pooling=pooling, normalize=normalize)
    return module, int(model.config.hidden_size)


def _fast(tokenizer: Any, longest: int, prompt: str) -> FastTokenizer:
    from midrib.backbones._texts import FastTokenizer

    shift = 0 if tokenizer.pad_token_id == 0 else 1
    return FastTokenizer(tokenizer.backend_tokenizer, max_tokens=longest, prompt=prompt, shift=shift)


def _longest(config: Any, tokenizer: Any) -> int:
    """Return how many tokens both the tokeniser and the network's positions allow."""
    positions = getattr(config, "max_position_embeddings", None) or _LONGEST
    if "roberta" in config.model_type or config.model_type in ("camembert", "mpnet"):
        # Their positions are counted from behind the padding's.
        positions -= (config.pad_token_id or 0) + 1
    return int(min(tokenizer.model_max_length, positions, _LONGEST))


def _model(name: str, where: str, config: Any) -> Any:
    transformers = import_transformers()

    with _explained(name):
        model, report = transformers.AutoModel.from_pretrained(
            where, config=config, use_safetensors=True, output_loading_info=True, local_files_only=Path(where).is_dir()
        )
    missing = [key for key in report["missing_keys"] if not key.startswith(("pooler.", "masked_spec_embed"))]
    if missing:
        raise WeightsError(f"the weights of {name} lack {', '.join(sorted(missing)[:3])} …: they are another model's")
    return model


def _random(config: Any) -> Any:
    transformers = import_transformers()

    return transformers.AutoModel.from_config(config)


def _standardizes(where: str, offline: bool) -> bool:
    """Return whether the clips were made mean 0 and variance 1 in training, which the extractor's settings say."""
    transformers = import_transformers()

    with _explained(where):
        extractor = transformers.AutoFeatureExtractor.from_pretrained(where, local_files_only=offline)
    return bool(extractor.do_normalize)


def _source(name: str, checkpoint: str | Path | None) -> str:
    if checkpoint is not None:
        if not Path(checkpoint).is_dir():
            raise WeightsError(f"no folder {checkpoint}: give the one that save_pretrained wrote")
        return str(checkpoint)
    # The libraries take a name for a folder where there is one, and so would read what the caller did not mean.
    if not _HUB_NAME.fullmatch(name) or Path(name).exists():
        raise ValueError(
            f"got {name!r}, expected a name on the hub, such as owner/model: for a folder pass checkpoint="
        )
    return name


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn the libraries' ways to say that a file is not there, or is not what it should be, into one."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise WeightsError(
            f"{name} cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}): "
            "check the name and the network, or pass checkpoint=FOLDER with its files"
        ) from error
