"""Pipelines of sentence-transformers: every module that is accepted gives the library's own vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch

from midrib.backbones import Backbone, WeightsError, load_backbone
from midrib.backbones.testing import assert_conforms, no_network

sentence_transformers = pytest.importorskip("sentence_transformers", reason="the family under test")
transformers = pytest.importorskip("transformers", reason="the encoders of the family under test")

from sentence_transformers.sentence_transformer import modules  # noqa: E402 (after the check that it is installed)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "leaf", "midrib", "is", "the", "backbone", "of", "query", ":"]
TEXTS = ["a leaf", "the midrib is the backbone of a leaf", "a [PAD] leaf"]
PROMPT = {"prompts": {"query": "query : "}, "default_prompt_name": "query"}
Steps: TypeAlias = Callable[[Path], list[Any]]


@pytest.fixture(autouse=True)
def _offline() -> Any:
    with no_network():
        yield


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=20, **names)


def bert(folder: Path) -> Any:
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def encoder(folder: Path, **options: Any) -> Any:
    bert(folder / "encoder")
    return modules.Transformer(str(folder / "encoder"), **options)


def hidden_states(folder: Path) -> Any:
    return encoder(folder, config_kwargs={"output_hidden_states": True})


def table() -> Any:
    return modules.StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=16)


def saved(folder: Path, steps: Steps, options: dict[str, Any]) -> Any:
    model = sentence_transformers.SentenceTransformer(modules=steps(folder), device="cpu", **options)
    model.save(str(folder / "pipeline"))
    return model


def loaded(folder: Path, **options: Any) -> Backbone:
    return load_backbone("sentence-transformers/any", checkpoint=folder / "pipeline", **options)


def pooled(mode: str) -> Steps:
    return lambda folder: [encoder(folder), modules.Pooling(16, pooling_mode=mode)]


PIPELINES: list[Any] = [
    *(pytest.param(pooled(mode), {}, id=f"pooling-{mode}") for mode in ("mean", "cls", "max", "lasttoken")),
    *(pytest.param(pooled(mode), PROMPT, id=f"prompt-{mode}") for mode in ("mean_sqrt_len_tokens", "weightedmean")),
    pytest.param(
        lambda f: [encoder(f), modules.Pooling(16, include_prompt=False)], PROMPT, id="pooling-without-prompt"
    ),
    pytest.param(lambda f: [encoder(f), modules.Pooling(16), modules.Dense(16, 6)], {}, id="dense"),
    pytest.param(lambda f: [encoder(f), modules.Pooling(16), modules.LayerNorm(16)], {}, id="layer-norm"),
    pytest.param(lambda f: [encoder(f), dense_of_tokens(), modules.Pooling(6)], {}, id="dense-of-tokens"),
    pytest.param(lambda f: [encoder(f), modules.Pooling(16), modules.Dropout(0.5)], {}, id="dropout"),
    pytest.param(
        lambda f: [encoder(f), modules.WordWeights(WORDS, {"leaf": 3.0, "the": 0.1}), pooling()], {}, id="word-weights"
    ),
    pytest.param(lambda f: [encoder(f), modules.Pooling(16), modules.Normalize()], {"truncate_dim": 5}, id="truncated"),
    pytest.param(lambda f: [table()], {}, id="static"),
    pytest.param(lambda f: [table(), modules.Dense(16, 6), modules.Normalize()], {}, id="static-dense"),
    pytest.param(lambda f: [table(), modules.LayerNorm(16), modules.Dropout(0.5)], {}, id="static-layer-norm"),
    pytest.param(lambda f: [table()], {"truncate_dim": 5}, id="static-truncated"),
    pytest.param(lambda f: [table(), modules.Normalize()], PROMPT, id="static-prompt"),
]


def dense_of_tokens() -> Any:
    return modules.Dense(16, 6, module_input_name="token_embeddings")


def pooling() -> Any:
    return modules.Pooling(16)


@pytest.mark.parametrize(("steps", "options"), PIPELINES)
def test_a_pipeline_gives_the_librarys_vectors(tmp_path: Path, steps: Steps, options: dict[str, Any]) -> None:
    """Every accepted module takes part, as `SentenceTransformer.encode` does it, to 1e-5; and the contract holds."""
    saved(tmp_path, steps, options)
    reference = sentence_transformers.SentenceTransformer(str(tmp_path / "pipeline"), device="cpu")
    got = loaded(tmp_path).embed_texts(TEXTS).numpy()
    assert got.shape == reference.encode(TEXTS).shape
    assert float(np.abs(got - reference.encode(TEXTS)).max()) <= 1e-5
    assert_conforms("sentence-transformers/any", checkpoint=tmp_path / "pipeline")


def test_a_long_text_of_a_table_is_summed_in_the_librarys_order(tmp_path: Path) -> None:
    """In another order, the rounding of 7,000 tokens differs by more than 1e-5."""
    text = " ".join(f"a {word}" for word in WORDS[4:11]) * 500
    model = saved(tmp_path, lambda folder: [table()], {})
    library = model.encode([text, "a leaf"])
    assert float(np.abs(loaded(tmp_path).embed_texts([text, "a leaf"]).numpy() - library).max()) <= 1e-7


def test_a_text_without_tokens_is_a_row_of_zeros(tmp_path: Path) -> None:
    """Ids of no columns, as other programs send them for a batch of empty texts."""
    saved(tmp_path, pooled("mean"), {})
    assert torch.equal(loaded(tmp_path).module(torch.zeros(2, 0, dtype=torch.int64)), torch.zeros(2, 16))


def test_a_pipeline_may_weigh_the_layers(tmp_path: Path) -> None:
    """WeightedLayerPooling reads every hidden state; transformers' hooks for them cannot be pickled once they ran."""

    def steps(folder: Path) -> list[Any]:
        weighted = modules.WeightedLayerPooling(16, num_hidden_layers=2, layer_start=1)
        return [hidden_states(folder), weighted, pooling()]

    model = saved(tmp_path, steps, {})
    assert float(np.abs(loaded(tmp_path).embed_texts(TEXTS).numpy() - model.encode(TEXTS)).max()) <= 1e-5


@pytest.mark.parametrize(
    ("steps", "module"),
    [
        pytest.param(lambda f: [modules.BoW(vocab=["a", "leaf"])], "BoW", id="bag-of-words"),
        pytest.param(lambda f: [encoder(f), modules.CNN(16, 8), modules.Pooling(24)], "CNN", id="cnn"),
    ],
)
def test_a_module_that_is_not_supported_is_named(tmp_path: Path, steps: Steps, module: str) -> None:
    """The pipeline is refused; the module is never left out."""
    saved(tmp_path, steps, {})
    with pytest.raises(WeightsError, match=rf"pipeline (starts with|has) the module {module}"):
        loaded(tmp_path)


def test_a_pipeline_without_pooling_is_refused(tmp_path: Path) -> None:
    """It gives a vector per token, and no row per text."""
    saved(tmp_path, lambda folder: [encoder(folder)], {})
    with pytest.raises(WeightsError, match="pipeline has no module Pooling, so it gives no row per text"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param((pooled("mean"), {}), (pooled("max"), {}), id="pooling"),
        pytest.param((pooled("mean"), {}), (pooled("mean"), {"truncate_dim": 5}), id="width"),
    ],
)
def test_settings_that_change_the_vectors_change_the_revision(tmp_path: Path, first: Any, second: Any) -> None:
    """Pooling and width are in no state dict."""
    bert(tmp_path / "shared")
    revisions = set()
    for steps, options in (first, second):
        saved(tmp_path, steps, options)
        revisions.add(loaded(tmp_path).revision())
    assert len(revisions) == 2


def test_half_precision_files_are_computed_in_float32(tmp_path: Path) -> None:
    """Published pipelines are often stored in float16."""
    model = sentence_transformers.SentenceTransformer(modules=pooled("mean")(tmp_path), device="cpu")
    model.half().save(str(tmp_path / "pipeline"))
    assert str(loaded(tmp_path).embed_texts(TEXTS).dtype) == "torch.float32"


def test_an_encoder_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    """The library would fill it with random numbers."""
    from safetensors.torch import load_file, save_file

    saved(tmp_path, pooled("mean"), {})
    file = tmp_path / "pipeline" / "model.safetensors"
    state = {name: value for name, value in load_file(file).items() if "layer.1.output.dense" not in name}
    save_file(state, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"pipeline do not fit BertModel: they lack encoder.layer.1.output.dense"):
        loaded(tmp_path)


def test_a_module_of_another_package_is_not_imported(tmp_path: Path) -> None:
    """Code that comes with a model is never run; the error names the folder."""
    saved(tmp_path, pooled("mean"), {})
    listing = tmp_path / "pipeline" / "modules.json"
    entries = json.loads(listing.read_text())
    entries[-1]["type"] = "theirs.Pooling"
    listing.write_text(json.dumps(entries))
    (tmp_path / "pipeline" / "theirs.py").write_text("raise SystemExit('code of the model was run')")
    with pytest.raises(WeightsError, match="pipeline cannot be loaded"):
        loaded(tmp_path)
