"""Folders with a LoRA adapter: the merged vectors, as peft and sentence-transformers compute them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest

from libs.backbones.tests.test_backbone_pipelines import TEXTS, bert, encoder, loaded
from midrib.backbones import WeightsError, load_backbone

transformers = pytest.importorskip("transformers", reason="the base models of the adapters")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="pipelines with adapters")

# peft calls a method of transformers that is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def lora() -> Any:
    """Return a configuration whose weights are random, so that the adapter changes every vector."""
    return peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)


def base(folder: Path) -> Any:
    return transformers.AutoModel.from_pretrained(folder / "base")


def tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder / "base")


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A folder with a model, "base", and an adapter for it, "adapter", as peft saves it: without a tokenizer."""
    bert(tmp_path / "base")
    peft.get_peft_model(base(tmp_path), lora()).save_pretrained(tmp_path / "adapter")
    return tmp_path


def mean_vectors(folder: Path, model: Any) -> Any:
    """Return the mean of the last hidden states of a model, by hand."""
    batch = tokenizer(folder)(TEXTS, padding=True, return_tensors="pt")
    mask = batch["attention_mask"].unsqueeze(2)
    hidden = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    return ((hidden * mask).sum(1) / mask.sum(1)).detach().numpy()


def adapted(folder: Path) -> Any:
    return load_backbone("transformers/any", checkpoint=folder / "adapter").embed_texts(TEXTS).numpy()


def difference(left: Any, right: Any) -> float:
    return float(np.abs(left - right).max())


def test_an_adapters_vectors_are_those_of_peft(folder: Path) -> None:
    """The vectors equal PEFT's, also after `merge_and_unload`, and differ from the base model's."""
    model = peft.PeftModel.from_pretrained(base(folder), folder / "adapter")
    expected = mean_vectors(folder, model)
    assert difference(adapted(folder), expected) <= 1e-5
    assert difference(adapted(folder), mean_vectors(folder, model.merge_and_unload())) <= 1e-5
    assert difference(expected, mean_vectors(folder, base(folder))) > 1e-2


def test_the_tokenizer_in_an_adapters_folder_is_used(folder: Path) -> None:
    """If the folder has no tokenizer, the base model's is used."""
    before = adapted(folder)
    tokenizer(folder).save_pretrained(folder / "adapter")
    assert difference(adapted(folder), before) == 0


def test_a_pipeline_with_an_adapter_gives_the_librarys_vectors(tmp_path: Path) -> None:
    """The pipeline was made by `SentenceTransformer.add_adapter`, saved and loaded."""
    modules = sentence_transformers.sentence_transformer.modules
    pipeline = sentence_transformers.SentenceTransformer(modules=[encoder(tmp_path), modules.Pooling(16)], device="cpu")
    pipeline.add_adapter(lora())
    pipeline.save(str(tmp_path / "pipeline"))
    assert difference(loaded(tmp_path).embed_texts(TEXTS).numpy(), pipeline.encode(TEXTS)) <= 1e-5


def test_an_adapter_that_lacks_a_weight_is_refused(folder: Path) -> None:
    """transformers would fill it with random numbers."""
    from safetensors.torch import load_file, save_file

    file = folder / "adapter" / "adapter_model.safetensors"
    state = {
        name: value for name, value in load_file(file).items() if "layer.1.attention.self.value.lora_B" not in name
    }
    save_file(state, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"they lack encoder.layer.1.attention.self.value.lora_B"):
        adapted(folder)


def test_an_adapter_without_its_weights_is_refused(folder: Path) -> None:
    """The base model alone is another function."""
    (folder / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"adapter cannot be loaded .*adapter_model.safetensors"):
        adapted(folder)
