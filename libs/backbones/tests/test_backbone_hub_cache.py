"""The hub's cache: a file whose content is not that of its name is an error, never other weights."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from midrib.backbones import Backbone, WeightsError, load_backbone
from midrib.backbones._loaders import hub_cache
from midrib.backbones.testing import no_network

transformers = pytest.importorskip("transformers", reason="the library under test")

REPOSITORY, COMMIT = "owner/tiny", "0" * 40
TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "leaf", "a", "tree", "b", "c", "d"])}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with no_network():
        yield


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=20
    )


@pytest.fixture()
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a model in a cache of the hub, as links to blobs; small files have git's digests."""
    transformers.BertModel(transformers.BertConfig(vocab_size=len(WORDS), **TINY)).save_pretrained(tmp_path / "saved")
    tokenizer().save_pretrained(tmp_path / "saved")
    folder = tmp_path / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    for part in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for file in (tmp_path / "saved").iterdir():
        content = file.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content)
        digest = hashlib.sha256(content) if file.suffix == ".safetensors" else git
        shutil.copy(file, folder / "blobs" / digest.hexdigest())
        (folder / "snapshots" / COMMIT / file.name).symlink_to(f"../../blobs/{digest.hexdigest()}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder / "snapshots" / COMMIT


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.resolve().write_bytes(content)


def loaded() -> Backbone:
    return load_backbone(f"transformers/{REPOSITORY}")


def test_an_intact_cache_is_loaded(snapshot: Path) -> None:
    """Blobs of both kinds of digests have their contents."""
    expected = load_backbone("transformers/any/name", checkpoint=snapshot).embed_texts(["leaf"])
    assert torch.equal(loaded().embed_texts(["leaf"]), expected)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_wrong_bit_names_the_file(snapshot: Path, name: str) -> None:
    """safetensors have no checksum, so that a wrong bit would be a wrong weight."""
    flip_a_bit(snapshot / name)
    with pytest.raises(WeightsError, match=f"{snapshot / name} of the hub's cache, for {REPOSITORY}, is damaged"):
        loaded()


def test_a_file_that_breaks_after_a_load_is_noticed_at_the_next(snapshot: Path) -> None:
    """Its digest is computed again once the file has changed."""
    loaded()
    flip_a_bit(snapshot / "model.safetensors")
    with pytest.raises(WeightsError, match="model.safetensors of the hub's cache.* is damaged.*Delete .*blobs"):
        loaded()


def test_an_unchanged_file_is_read_once(snapshot: Path) -> None:
    """The digest of 256 MB takes half a second, which a second replica need not wait for."""
    hub_cache.require_intact(REPOSITORY)
    before = hub_cache._has_its_digest.cache_info().misses
    hub_cache.require_intact(REPOSITORY)
    assert hub_cache._has_its_digest.cache_info().misses == before


def test_a_pickle_in_another_folder_than_safetensors_is_checked(snapshot: Path) -> None:
    """sentence-transformers keeps the weights of each module in a folder of its name."""
    (snapshot / "2_Dense").mkdir()
    blob = snapshot.parents[1] / "blobs" / ("a" * 64)
    blob.write_bytes(b"other weights")
    (snapshot / "2_Dense" / "pytorch_model.bin").symlink_to(blob)
    with pytest.raises(WeightsError, match="2_Dense/pytorch_model.bin of the hub's cache.* is damaged"):
        hub_cache.require_intact(REPOSITORY)


def test_a_blob_may_be_a_link_into_other_storage(snapshot: Path, tmp_path: Path) -> None:
    """Its name there is another digest, such as of the storage's own kind."""
    blob = snapshot.parents[1] / "blobs" / (snapshot / "model.safetensors").resolve().name
    blob.rename(tmp_path / ("b" * 64))
    blob.symlink_to(tmp_path / ("b" * 64))
    assert hub_cache.damaged_file(REPOSITORY) is None
    flip_a_bit(snapshot / "model.safetensors")
    assert hub_cache.damaged_file(REPOSITORY) == snapshot / "model.safetensors"


def test_a_file_that_cannot_be_read_is_left_to_its_reader(snapshot: Path) -> None:
    """A file that no loader needs must not end the load."""
    blob = snapshot.parents[1] / "blobs" / ("c" * 64)
    blob.symlink_to("/proc/self/mem")  # its first byte cannot be read
    (snapshot / "notes.txt").symlink_to(blob)
    assert hub_cache.damaged_file(REPOSITORY) is None


@pytest.mark.parametrize("content", [b"\xff\xfe", b""], ids=["not text", "empty"])
def test_a_damaged_name_of_the_version_is_left_to_the_hub(snapshot: Path, content: bytes) -> None:
    """It fetches the version again, or says that it cannot."""
    (snapshot.parents[1] / "refs" / "main").write_bytes(content)
    assert hub_cache.damaged_file(REPOSITORY) is None


@pytest.mark.parametrize("name", ["flax_model.msgpack", "pytorch_model.bin", "openvino/openvino_model.bin"])
def test_weights_that_are_not_read_are_not_checked(snapshot: Path, name: str) -> None:
    """Beside safetensors, the weights of other frameworks and pickles lie unread."""
    blob = snapshot.parents[1] / "blobs" / ("a" * 64)
    blob.write_bytes(b"other weights")
    (snapshot / name).parent.mkdir(exist_ok=True)
    (snapshot / name).symlink_to(blob)
    assert hub_cache.damaged_file(REPOSITORY) is None
