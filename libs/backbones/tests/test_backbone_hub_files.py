"""Folders of transformers as people have them: incomplete, damaged, of another kind, or with code beside them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from midrib.backbones import Backbone, WeightsError, load_backbone
from midrib.backbones._loaders.hub import base_of
from midrib.backbones.testing import no_network

transformers = pytest.importorskip("transformers", reason="the library under test")

VOCABULARY = ["<s>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "leaf", "midrib"]
TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
THEIR_CODE = "open({mark!r}, 'w').close()\nfrom transformers import BertConfig as C, BertModel as M\n"

THEIR_TOKENIZER = {"auto_map": {"AutoTokenizer": ["own.T", None]}}


@pytest.fixture(autouse=True)
def _offline() -> Any:
    with no_network():
        yield


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=20
    )


def bert(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    model = transformers.BertModel(transformers.BertConfig(vocab_size=len(VOCABULARY), **TINY)).eval()
    model.to(dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model


def loaded(folder: Path) -> Backbone:
    return load_backbone("transformers/any/name", checkpoint=folder)


@pytest.mark.parametrize("text", ["a [PAD] leaf", "<s> a leaf", "[PAD]", "<s>", "leaf <s> [PAD] <s>"])
def test_a_text_that_spells_special_tokens_keeps_them(tmp_path: Path, text: str) -> None:
    """Padding is where the text has ended, not a token: neither [PAD] nor the token whose id is 0 is lost."""
    model = bert(tmp_path)
    ids = torch.tensor([tokenizer()(text)["input_ids"]])
    with torch.inference_mode():
        expected = model(input_ids=ids).last_hidden_state.mean(1)[0]
    backbone = loaded(tmp_path)
    assert torch.allclose(backbone.embed_texts([text, "leaf " * 9])[0], expected, atol=1e-5)


def test_the_ids_carry_their_attention_mask(tmp_path: Path) -> None:
    """0 is padding alone, and a token whose id is 0 is -1, so that any batch can be padded with 0."""
    bert(tmp_path)
    assert loaded(tmp_path).prepare_texts(["<s> a [PAD]", "leaf"]).tolist() == [[-1, 5, 1], [6, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_files_of_any_precision_are_computed_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    """A Task and a server compute in float32 unless they are configured otherwise."""
    bert(tmp_path, dtype)
    assert loaded(tmp_path).embed_texts(["a leaf"]).dtype == torch.float32


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    """The library makes an empty tokenizer, to which every text is the same."""
    transformers.BertModel(transformers.BertConfig(vocab_size=8, **TINY)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=f"{tmp_path} has no tokenizer: add its files, such as tokenizer.json"):
        loaded(tmp_path)


@pytest.mark.parametrize("folder", ["transformers", "sentence-transformers"])
def test_an_adapter_without_peft_is_refused(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would answer with the base model's weights."""
    bert(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    real = __import__("importlib.util", fromlist=["find_spec"]).find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "peft" else real(name, *rest))
    with pytest.raises(WeightsError, match=f"{tmp_path} holds an adapter .*pip install peft, or merge"):
        load_backbone(f"{folder}/any/name", checkpoint=tmp_path)


def lfs_pointer(folder: Path) -> None:
    bert(folder)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n")


def cut_short(folder: Path) -> None:
    bert(folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def error_page(folder: Path) -> None:
    bert(folder)
    (folder / "model.safetensors").write_text("<html>Not found</html>")


def broken_tokenizer(folder: Path) -> None:
    bert(folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')


def broken_config(folder: Path) -> None:
    bert(folder)
    (folder / "config.json").write_text('{"model_type": "bert", ')


def image_and_text(folder: Path) -> None:
    sides = {"image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config={"vocab_size": 9, **TINY}, vision_config={**TINY, **sides})
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def image_only(folder: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=16, **TINY)).save_pretrained(folder)


def mel_spectra(folder: Path) -> None:
    transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig(**TINY)).save_pretrained(folder)


def encoder_without_configuration(folder: Path) -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    words = {"src_vocab_size": 9, "tgt_vocab_size": 9, "langs": ["en", "de"]}
    transformers.FSMTModel(transformers.FSMTConfig(**sizes, **heads, **words)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def pickled(folder: Path) -> None:
    torch.save(bert(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def page_as_config(folder: Path) -> None:
    bert(folder)
    (folder / "config.json").write_text("<html>404</html>")


def other_width(folder: Path) -> None:
    bert(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lfs_pointer, "model.safetensors: it is a Git LFS pointer", id="lfs-pointer"),
        pytest.param(cut_short, "model.safetensors: it is damaged or cut short", id="cut-short"),
        pytest.param(error_page, "model.safetensors: it holds text", id="error-page"),
        pytest.param(broken_tokenizer, "cannot be loaded", id="tokenizer"),
        pytest.param(pickled, "only safetensors are read, pickles may run code", id="pickled"),
        pytest.param(page_as_config, "config.json: it holds text, such as the error page", id="page-as-config"),
        pytest.param(other_width, "its weights have other shapes than its config.json says", id="other-width"),
        pytest.param(broken_config, "cannot be loaded", id="config"),
        pytest.param(image_and_text, "a model of type 'clip', expected an encoder of text", id="clip"),
        pytest.param(image_only, "a model of type 'vit', expected an encoder of text", id="images"),
        pytest.param(
            mel_spectra, "'wav2vec2-bert' that takes input_features, which is not supported", id="mel-spectra"
        ),
        pytest.param(
            encoder_without_configuration, "'fsmt', whose encoder cannot be used without the rest", id="translation"
        ),
        pytest.param(lambda folder: None, "cannot be loaded", id="empty"),
    ],
)
def test_a_folder_that_is_no_encoder_is_named(tmp_path: Path, make: Any, message: str) -> None:
    """The errors of the libraries below are one error here, with the folder's name and advice."""
    make(tmp_path)
    with pytest.raises(WeightsError, match=f"{tmp_path} .*{message}"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        pytest.param("config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.C"}}, id="config"),
        pytest.param("config.json", {"model_type": "own", "auto_map": {"AutoModel": "own.M"}}, id="model"),
        pytest.param("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.T", None]}}, id="tokenizer"),
        pytest.param("tokenizer_config.json", {"tokenizer_class": "T", **THEIR_TOKENIZER}, id="tokenizer-of-its-class"),
    ],
)
def test_code_that_comes_with_a_model_is_not_run(
    tmp_path: Path, file: str, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code is refused, and the user is not asked whether to run it."""
    bert(tmp_path)
    mark = tmp_path / "ran"
    (tmp_path / "own.py").write_text(THEIR_CODE.format(mark=str(mark)))
    (tmp_path / file).write_text(json.dumps(json.loads((tmp_path / file).read_text()) | change))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("stdin was asked"))
    with contextlib.suppress(WeightsError):
        loaded(tmp_path)
    assert not mark.exists()


def test_the_encoder_of_an_encoder_and_decoder_needs_no_decoder(tmp_path: Path) -> None:
    """Sentence-T5 is published as its encoder alone."""
    config = transformers.T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert loaded(tmp_path).embed_texts(["a leaf"]).shape == (1, 16)


def test_the_architecture_is_part_of_the_revision(tmp_path: Path) -> None:
    """The same weights with another number of heads are another function."""
    bert(tmp_path)
    before = loaded(tmp_path).revision()
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert loaded(tmp_path).revision() != before


def test_an_adapter_alone_names_its_model(tmp_path: Path) -> None:
    """A folder that holds nothing but an adapter has no config.json: the shape is that of the model it names."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/model"}')
    assert base_of(str(tmp_path)) == "owner/model"
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="does not name the adapter's model: merge it"):
        base_of(str(tmp_path))
