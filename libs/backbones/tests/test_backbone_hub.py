"""Encoders of transformers and sentence-transformers, loaded from folders in the libraries' formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from midrib.backbones import BACKBONES, Backbone, WeightsError, load_backbone
from midrib.backbones.testing import assert_conforms, no_network
from midrib.registry import ContractError

transformers = pytest.importorskip("transformers", reason="the families under test")

WORDS = ["a", "leaf", "midrib", "is", "the", "backbone", "of", "query", "passage", ":"]
TEXTS = ["a leaf", "the midrib is the backbone of a leaf", ""]
TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(autouse=True)
def _offline() -> Any:
    with no_network():
        yield


def bert_tokenizer() -> Any:
    """Return a tokenizer in which [PAD] is 0, as for BERT."""
    return _tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS], "[CLS]", "[SEP]", "[PAD]", "[UNK]")


def roberta_tokenizer() -> Any:
    """Return a tokenizer in which <s> is 0 and <pad> is 1, as for RoBERTa."""
    return _tokenizer(["<s>", "<pad>", "</s>", "<unk>", *WORDS], "<s>", "</s>", "<pad>", "<unk>")


def _tokenizer(vocabulary: list[str], first: str, last: str, pad: str, unknown: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {word: place for place, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(first, ids[first]), (last, ids[last])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=marks)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unknown,
        cls_token=first,
        sep_token=last,
        model_max_length=20,
    )


def save(folder: Path, model: Any, tokenizer: Any = None) -> Any:
    model.eval().save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return model


def bert(folder: Path) -> Any:
    config = transformers.BertConfig(vocab_size=14, max_position_embeddings=32, **TINY)
    return save(folder, transformers.BertModel(config), bert_tokenizer())


def roberta(folder: Path) -> Any:
    config = transformers.RobertaConfig(vocab_size=14, max_position_embeddings=22, pad_token_id=1, **TINY)
    return save(folder, transformers.RobertaModel(config), roberta_tokenizer())


def t5(folder: Path) -> Any:
    config = transformers.T5Config(vocab_size=14, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return save(folder, transformers.T5Model(config), bert_tokenizer())


def reference(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Return the means over the tokens, [rows, width], one text at a time, so that no padding is involved."""
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    rows = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            rows.append(encoder(input_ids=ids).last_hidden_state[0].mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("make", "tokenizer"),
    [
        pytest.param(bert, bert_tokenizer, id="bert"),
        pytest.param(roberta, roberta_tokenizer, id="roberta-whose-padding-is-not-0"),
        pytest.param(t5, bert_tokenizer, id="t5-whose-decoder-is-dropped"),
    ],
)
def test_a_text_encoder_equals_the_librarys(tmp_path: Path, make: Any, tokenizer: Any) -> None:
    """Features of a padded batch equal those of each text run alone by the library."""
    model = make(tmp_path)
    backbone = load_backbone("transformers/any/name", checkpoint=tmp_path)
    expected = reference(model, tokenizer(), TEXTS)
    assert float((backbone.embed_texts(TEXTS) - expected).abs().max()) <= 1e-5
    assert_conforms("transformers/any/name", checkpoint=tmp_path)


@pytest.mark.parametrize(("make", "longest"), [(bert, 20), (roberta, 20)])
def test_the_longest_text_fits_the_positions(tmp_path: Path, make: Any, longest: int) -> None:
    """A longer text is cut at the limit of both tokenizer and network."""
    make(tmp_path)
    backbone = load_backbone("transformers/any/name", checkpoint=tmp_path)
    assert backbone.prepare_texts(["leaf " * 100]).shape == (1, longest)
    assert bool(backbone.embed_texts(["leaf " * 100]).isfinite().all())


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_each_pooling_is_another_function(tmp_path: Path, pooling: str) -> None:
    """The revision depends on pooling and normalisation."""
    bert(tmp_path)
    backbone = load_backbone("transformers/any/name", checkpoint=tmp_path, pooling=pooling, normalize=True)
    assert backbone.embed_texts(TEXTS).norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    other = load_backbone("transformers/any/name", checkpoint=tmp_path, pooling=pooling)
    assert other.revision() != backbone.revision()


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    """The library would replace it with random numbers and print a warning."""
    model = bert(tmp_path)
    state = {name: value for name, value in model.state_dict().items() if "layer.1.output.dense" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(
        WeightsError, match=r"weights of .* do not fit BertModel: they lack encoder.layer.1.output.dense"
    ):
        BACKBONES.load("transformers/any/name", checkpoint=tmp_path)


def test_random_weights_in_a_known_shape_differ_from_the_saved(tmp_path: Path) -> None:
    """pretrained=False uses the shape of the checkpoint, not its weights."""
    bert(tmp_path)
    random = load_backbone("transformers/any/name", checkpoint=tmp_path, pretrained=False)
    saved = load_backbone("transformers/any/name", checkpoint=tmp_path)
    assert random.revision() != saved.revision()


@pytest.mark.parametrize(
    "key",
    ["transformers/owner/model", "sentence-transformers/model", "wav2vec2-base", "hubert-base-ls960", "whisper-tiny"],
)
def test_a_model_that_cannot_be_fetched_is_an_error_that_helps(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Offline and without a folder, the error says what to pass."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"cannot be loaded .*pass checkpoint=FOLDER"):
        BACKBONES.load(key)


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/b/c", "https:x"])
def test_a_name_is_never_a_path(name: str) -> None:
    """A client can name a model of the hub only; a folder is passed as checkpoint=, in process."""
    with pytest.raises(ValueError, match="expected a name on the hub"):
        BACKBONES.registries[-1].get(f"transformers/{name}")()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The error says how such folders are made."""
    with pytest.raises(WeightsError, match="no folder .*absent: give the folder that save_pretrained wrote"):
        BACKBONES.load("transformers/any/name", checkpoint=tmp_path / "absent")


def speech(folder: Path, family: str) -> Any:
    config = getattr(transformers, f"{family}Config")(
        conv_dim=(8, 8, 8, 8, 8, 8, 8), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, **TINY
    )
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return save(folder, transformers.AutoModel.from_config(config))


@pytest.mark.parametrize("family", ["Wav2Vec2", "Hubert", "WavLM", "UniSpeech", "Wav2Vec2Conformer"])
def test_a_speech_encoder_equals_the_librarys(tmp_path: Path, family: str) -> None:
    """Samples are standardised as the family expects, without the padding of a batch."""
    model = speech(tmp_path, family)
    clips = [np.random.default_rng(n).standard_normal(n) * 0.1 for n in (5000, 9000)]
    backbone = load_backbone("transformers/any/name", checkpoint=tmp_path)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    for clip, got in zip(clips, backbone.embed_audio(clips, 16000), strict=True):
        values = extractor(clip.astype(np.float32), sampling_rate=16000, return_tensors="pt").input_values
        with torch.inference_mode():
            assert float((model(values).last_hidden_state[0].mean(0) - got).abs().max()) <= 1e-4
    assert_conforms("transformers/any/name", checkpoint=tmp_path)


@pytest.mark.parametrize(("key", "family"), [("wav2vec2-base", "Wav2Vec2"), ("hubert-base-ls960", "Hubert")])
def test_a_published_sound_encoder_reads_a_checkpoint_of_its_family(tmp_path: Path, key: str, family: str) -> None:
    """The folder's weights are used; loading by name also checks the declared width."""
    speech(tmp_path, family)
    module, width = BACKBONES.get(key)(checkpoint=tmp_path)
    expected = load_backbone("transformers/any/name", checkpoint=tmp_path)
    assert Backbone(key, module.eval(), width, module.input).revision() == expected.revision()
    with pytest.raises(ContractError, match="num_features=16, but its registration declares 768"):
        BACKBONES.load(key, checkpoint=tmp_path)


def test_whispers_encoder_equals_the_librarys(tmp_path: Path) -> None:
    """The spectrogram equals the extractor's, and only frames with sound are averaged."""
    config = transformers.WhisperConfig(
        vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = save(tmp_path, transformers.WhisperModel(config))
    clip = np.random.default_rng(0).standard_normal(8000) * 0.1
    extractor = transformers.WhisperFeatureExtractor()
    mels = extractor(clip.astype(np.float32), sampling_rate=16000, return_tensors="pt").input_features
    with torch.inference_mode():
        expected = model.get_encoder()(mels).last_hidden_state[0, :25].mean(0)
    got = load_backbone("transformers/any/name", checkpoint=tmp_path).embed_audio([clip], 16000)[0]
    assert float((got - expected).abs().max()) <= 1e-5


def test_a_clip_longer_than_whispers_window_is_taken_in_windows() -> None:
    """Sound after the thirtieth second changes the features."""
    backbone = load_backbone("whisper-tiny", pretrained=False)
    clip = np.random.default_rng(0).standard_normal(40 * 16000).astype(np.float32) * 0.1
    changed = clip.copy()
    changed[-16000:] *= 0.1
    rows = backbone.embed_audio([clip, changed], 16000)
    assert not torch.equal(rows[0], rows[1])


def pipeline(folder: Path, *, dense: bool = False) -> Any:
    """Save a pipeline of a transformer, pooling, optionally a projection, and prompts; return it."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the family under test")
    from sentence_transformers.sentence_transformer import modules

    bert(folder / "encoder")
    first = modules.Transformer(str(folder / "encoder"), max_seq_length=12)
    steps = [first, modules.Pooling(16, pooling_mode="cls")]
    if dense:
        steps.append(modules.Dense(16, 6))
    model = sentence_transformers.SentenceTransformer(
        modules=[*steps, modules.Normalize()], prompts={"query": "query: ", "passage": "passage: "}, device="cpu"
    )
    model.save(str(folder / "pipeline"))
    return model


@pytest.mark.parametrize("dense", [False, True], ids=["pooled", "projected"])
def test_a_pipeline_equals_the_librarys(tmp_path: Path, dense: bool) -> None:
    """Pooling, projection and normalisation are those of the pipeline."""
    library_model = pipeline(tmp_path, dense=dense)
    backbone = load_sentences(tmp_path)
    assert backbone.num_features == (6 if dense else 16)
    assert float(np.abs(backbone.embed_texts(TEXTS).numpy() - library_model.encode(TEXTS)).max()) <= 1e-5
    assert_conforms("sentence-transformers/any", checkpoint=tmp_path / "pipeline")


def test_a_pipelines_own_prompt_is_put_before_each_text(tmp_path: Path) -> None:
    """The features equal the library's with prompt_name, and the revision depends on the prompt."""
    library_model = pipeline(tmp_path)
    backbone = load_sentences(tmp_path, prompt_name="query")
    assert (
        float(np.abs(backbone.embed_texts(TEXTS).numpy() - library_model.encode(TEXTS, prompt_name="query")).max())
        <= 1e-5
    )
    assert backbone.revision() != load_sentences(tmp_path, prompt_name="passage").revision()


def test_an_unknown_prompt_is_answered_with_the_known(tmp_path: Path) -> None:
    """The error lists the prompts of the model."""
    pipeline(tmp_path)
    with pytest.raises(ValueError, match="has no prompt 'doc': it has .*'passage'"):
        load_sentences(tmp_path, prompt_name="doc")


def test_a_pipeline_without_files_is_refused() -> None:
    """Random weights need a shape, which only the files describe."""
    with pytest.raises(WeightsError, match="defined by its files: without them, pass checkpoint=FOLDER"):
        BACKBONES.load("sentence-transformers/any", pretrained=False)


def test_a_static_pipeline_equals_the_librarys(tmp_path: Path) -> None:
    """A table of vectors, averaged, as model2vec saves it."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the family under test")
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    static = StaticEmbedding(bert_tokenizer().backend_tokenizer, embedding_dim=8)
    library_model = sentence_transformers.SentenceTransformer(modules=[static, Normalize()], device="cpu")
    library_model.save(str(tmp_path / "pipeline"))
    texts = TEXTS[:2]
    assert (
        float(np.abs(load_sentences(tmp_path).embed_texts(texts).numpy() - library_model.encode(texts)).max()) <= 1e-6
    )


def load_sentences(folder: Path, **kwargs: Any) -> Backbone:
    return load_backbone("sentence-transformers/any", checkpoint=folder / "pipeline", **kwargs)
