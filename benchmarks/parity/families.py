"""Small models with random weights, one for each family of transformers."""

from __future__ import annotations

import importlib
from typing import Any, Final

WORDS: Final = (
    "[PAD] [UNK] [CLS] [SEP] a cat sleeps x and lines upper lower mixed word numbers code for int leading inner spaces"
).split()
_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
# Families that are built like BERT, with the configuration that they have besides.
_LIKE_BERT: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "bert": ("Bert", {}),
    "electra": ("Electra", {"embedding_size": 16}),
    "albert": ("Albert", {"embedding_size": 16}),
}
_MAX_TOKENS: Final = 64
_UNKNOWN: Final = "[UNK]"


def tokenizer() -> Any:
    """Return a tokenizer of whole words; words that it does not know are one token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token=_UNKNOWN))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": _UNKNOWN, "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _transformers().PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=_MAX_TOKENS, **names)


def text_model(family: str) -> Any:
    """Return an encoder: one that is built like BERT, roberta or t5."""
    transformers = _transformers()
    if family in _LIKE_BERT:
        name, besides = _LIKE_BERT[family]
        config = getattr(transformers, f"{name}Config")(
            vocab_size=len(WORDS), max_position_embeddings=_MAX_TOKENS, **_SIZES, **besides
        )
        return getattr(transformers, f"{name}Model")(config).eval()
    if family == "roberta":
        positions = _MAX_TOKENS + 1  # it counts from the padding's id
        config = transformers.RobertaConfig(
            vocab_size=len(WORDS), max_position_embeddings=positions, pad_token_id=0, **_SIZES
        )
        return transformers.RobertaModel(config).eval()
    sizes: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return transformers.T5Model(transformers.T5Config(vocab_size=len(WORDS), **sizes)).eval()


def sound_model(family: str) -> Any:
    """Return an encoder: Wav2Vec2, Hubert or WavLM."""
    transformers = _transformers()
    config = getattr(transformers, f"{family}Config")(
        conv_dim=(16, 16, 16), conv_kernel=(10, 3, 3), conv_stride=(5, 4, 4), num_feat_extract_layers=3,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, **_SIZES,
    )  # fmt: skip
    return getattr(transformers, f"{family}Model")(config).eval()


def whisper() -> Any:
    """Return an encoder and decoder, of which the encoder is used."""
    transformers = _transformers()
    sizes = {f"{part}_{size}": 2 for part in ("encoder", "decoder") for size in ("layers", "attention_heads")}
    config = transformers.WhisperConfig(
        vocab_size=20, d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, **sizes,
    )  # fmt: skip
    return transformers.WhisperModel(config).eval()


def _transformers() -> Any:
    """Return the library, which has types in parts only."""
    return importlib.import_module("transformers")
