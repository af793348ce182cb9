"""Prompts of a call: the vectors are those that sentence-transformers computes with the same prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from libs.backbones.tests.test_backbone_pipelines import PROMPT, TEXTS, encoder, loaded, pooled, saved, table
from midrib.backbones import load_backbone

modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason="the family under test")
PROMPTS = {"prompts": {"query": "query : ", "passage": "the leaf :"}, "default_prompt_name": "query"}
PIPELINES = [
    pytest.param(pooled("mean"), id="mean"),
    pytest.param(lambda folder: [encoder(folder), modules.Pooling(16, include_prompt=False)], id="without-prompt"),
    pytest.param(
        lambda folder: [encoder(folder), modules.Pooling(16, pooling_mode="weightedmean", include_prompt=False)],
        id="weighted-without-prompt",
    ),
    pytest.param(lambda folder: [table(), modules.Normalize()], id="static"),
]
CHOICES = [
    pytest.param({}, id="default"),
    pytest.param({"prompt_name": "passage"}, id="by-name"),
    pytest.param({"prompt": "a midrib of "}, id="by-text"),
    pytest.param({"prompt": ""}, id="none"),
]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("steps", PIPELINES)
def test_a_calls_prompt_gives_the_librarys_vectors(tmp_path: Path, steps: Any, choice: dict[str, Any]) -> None:
    """`embed_texts` equals `SentenceTransformer.encode` with the same prompt or prompt_name, to 1e-5."""
    reference = saved(tmp_path, steps, PROMPTS)
    got = loaded(tmp_path).embed_texts(TEXTS, **choice).numpy()
    assert float(np.abs(got - reference.encode(TEXTS, **choice)).max()) <= 1e-5


def test_rows_of_one_batch_may_have_different_prompts(tmp_path: Path) -> None:
    """The ids say which tokens are not pooled, so a server may join the calls of several clients."""
    reference = saved(tmp_path, lambda folder: [encoder(folder), modules.Pooling(16, include_prompt=False)], PROMPTS)
    backbone = loaded(tmp_path)
    choices: list[dict[str, Any]] = [{"prompt_name": "passage"}, {"prompt": ""}, {}]
    rows = [backbone.prepare_texts(TEXTS[:1], **choice)[0] for choice in choices]
    got = backbone.embed(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)).numpy()
    expected = np.concatenate([reference.encode(TEXTS[:1], **choice) for choice in choices])
    assert float(np.abs(got - expected).max()) <= 1e-5


def test_a_call_may_put_a_text_before_those_of_any_text_backbone() -> None:
    """Backbones without prompts take a text as prompt."""
    backbone = load_backbone("text/embedding/wordllama-256", pretrained=False)
    expected = backbone.embed_texts(["query: a leaf"])
    assert torch.equal(backbone.embed_texts(["a leaf"], prompt="query: "), expected)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        pytest.param({"prompt_name": "doc"}, "has no prompt 'doc': it has .*'query'", id="unknown"),
        pytest.param({"prompt_name": "query", "prompt": "q"}, "got prompt='q' and prompt_name='query'", id="both"),
    ],
)
def test_a_prompt_that_does_not_exist_is_refused(tmp_path: Path, choice: dict[str, Any], message: str) -> None:
    """The error lists the names; two prompts contradict each other."""
    saved(tmp_path, pooled("mean"), PROMPT)
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path).embed_texts(TEXTS, **choice)


def test_named_prompts_are_part_of_the_revision(tmp_path: Path) -> None:
    """A call that names a prompt depends on its text."""
    saved(tmp_path, pooled("mean"), PROMPTS)
    first = loaded(tmp_path).revision()
    file = tmp_path / "pipeline" / "config_sentence_transformers.json"
    file.write_text(file.read_text().replace("the leaf :", "a leaf :"))
    assert loaded(tmp_path).revision() != first
