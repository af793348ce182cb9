"""Padding in batches of texts: of any id in the tokenizer, it does not change the vectors, or the model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from midrib.backbones import WeightsError, load_backbone

transformers = pytest.importorskip("transformers", reason="the library under test")

WORDS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "a", "leaf", "of", "the", "midrib"]
TEXTS = ["a leaf", "a [PAD] leaf", "the midrib of a leaf of the midrib", "the", ""]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": WORDS.index("[PAD]"),
}
XLNET: dict[str, Any] = {"vocab_size": len(WORDS), "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [(word, WORDS.index(word)) for word in ("[CLS]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, **names)


def saved(folder: Path, family: str, sizes: dict[str, Any]) -> Any:
    """Save a small random model of a family with a tokenizer, and return it as the library loads it."""
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**sizes))
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return transformers.AutoModel.from_pretrained(folder).eval()


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        *((family, SIZES) for family in ("MPNet", "Roberta", "Camembert", "XLMRoberta", "Data2VecText")),
        ("SqueezeBert", {**SIZES, "embedding_size": 16}),
        ("XLNet", XLNET),
    ],
)
def test_a_padding_id_other_than_0_gives_the_librarys_vectors(tmp_path: Path, family: str, sizes: Any) -> None:
    """Of texts of several lengths in one batch, one of which spells the padding's token."""
    model, words = saved(tmp_path, family, sizes), tokenizer()
    got = load_backbone("transformers/any/model", checkpoint=tmp_path).embed_texts(TEXTS)
    with torch.inference_mode():
        expected = [model(**words(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in TEXTS]
    assert torch.allclose(got, torch.stack(expected), atol=1e-5)


def test_a_model_that_reads_padding_as_text_is_refused(tmp_path: Path) -> None:
    """FNet has no attention mask: the vector of a text would depend on the rest of its batch."""
    sizes = {name: size for name, size in SIZES.items() if name != "num_attention_heads"}
    saved(tmp_path, "FNet", sizes)
    with pytest.raises(WeightsError, match="a model of type 'fnet' that reads padding as text"):
        load_backbone("transformers/any/model", checkpoint=tmp_path)


def test_a_model_that_needs_more_than_token_ids_is_an_error_of_the_weights(tmp_path: Path) -> None:
    """X-MOD has a part for each language, and needs the language as an input."""
    saved(tmp_path, "Xmod", {**SIZES, "languages": ["en_XX", "de_DE"]})
    with pytest.raises(WeightsError, match="'xmod' that does not compute features of token ids .*language"):
        load_backbone("transformers/any/model", checkpoint=tmp_path)


@pytest.mark.parametrize("family", ["Qwen2"])
def test_a_tokenizer_that_transformers_replaces_by_another_kind_is_refused(tmp_path: Path, family: str) -> None:
    """For Qwen2 it makes a BPE of any tokenizer.json, which drops each word of a list of words."""
    saved(tmp_path, family, {**SIZES, "num_key_value_heads": 2, "head_dim": 8})
    message = "reads the tokenizer of .* as BPE, but its tokenizer.json holds WordLevel"
    with pytest.raises(WeightsError, match=message):
        load_backbone("transformers/any/model", checkpoint=tmp_path)
