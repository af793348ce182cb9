"""Load pipelines of the `sentence-transformers` library, with their own pooling, projections, prompts and widths."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midrib.backbones._errors import WeightsError
from midrib.backbones._loaders.hub import (
    LONGEST,
    explained,
    fast_tokenizer,
    longest_text,
    refuse_adapter,
    require_mask_used,
    source_of,
)
from midrib.backbones._loaders.hub_cache import require_intact
from midrib.backbones._loaders.transformers_hub import require_every_weight
from midrib.backbones._tokens import PromptChoice, Prompts, choose_prompt
from midrib.backbones._torchvision import import_transformers

if TYPE_CHECKING:
    from torch import nn

# The modules whose answer for a text does not depend on the other texts of its batch, after a transformer and after a
# table of vectors. CNN is not among them: it mixes a text's last tokens with the padding that follows.
_AFTER_TOKENS = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "WeightedLayerPooling", "WordWeights")
_AFTER_VECTORS = ("Dense", "Normalize", "LayerNorm", "Dropout")
_PATCHING = threading.Lock()


def load_sentence_transformers(
    name: str,
    *,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> tuple[nn.Module, int]:
    """Load a pipeline of sentence-transformers: token ids [rows, tokens] to [rows, width], in float32.

    name: on the hub; without an owner, sentence-transformers' own.  checkpoint: a folder in the library's format, used
    instead.  prompt_name: which of the model's prompts to put before each text, by default the one that it names;
    prompt: a text to use instead. A call may choose another prompt.  pretrained=False needs a checkpoint, because a
    pipeline is defined by its files.
    Raises WeightsError if the files cannot be found or read, lack a weight, or use a module that is not supported.
    """
    if not pretrained and checkpoint is None:
        raise WeightsError(f"a pipeline such as {name} is defined by its files: without them, pass checkpoint=FOLDER")
    source = source_of(name if "/" in name else f"sentence-transformers/{name}", checkpoint)
    refuse_adapter(source, offline=checkpoint is not None)
    with explained(source), _every_weight_loaded(source):
        pipeline = _opened(source, offline=checkpoint is not None)
        pipeline.float()
    require_intact(source)
    _require_known_modules(source, pipeline)
    prompts = _prompts(name, pipeline, PromptChoice(prompt, prompt_name if prompt is None else None))
    with explained(source):
        if _kind(pipeline[0]) == "StaticEmbedding":
            return _static(pipeline, prompts)
        return _encoder(pipeline, prompts, source)


def _opened(source: str, *, offline: bool) -> Any:
    import_transformers()
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        source,
        device="cpu",
        local_files_only=offline,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )


@contextlib.contextmanager
def _every_weight_loaded(source: str) -> Iterator[None]:
    """Within it, a model of transformers that sentence-transformers loads must find every weight in its files.

    Raises WeightsError otherwise. transformers fills the missing ones with random numbers and reports them only to
    those who pass output_loading_info, which sentence-transformers does not: the method is replaced meanwhile, one
    thread at a time.
    """
    base = import_transformers().PreTrainedModel
    original = base.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        model, report = original.__get__(None, cls)(*args, **{**kwargs, "output_loading_info": True})
        require_every_weight(source, model, report)
        return (model, report) if kwargs.get("output_loading_info") else model

    with _PATCHING:
        base.from_pretrained = classmethod(from_pretrained)
        try:
            yield
        finally:
            base.from_pretrained = original


def _kind(module: Any) -> str:
    """Return the class name of a module of sentence-transformers itself; of other packages, with the package."""
    kind = type(module)
    return (
        kind.__name__ if kind.__module__.startswith("sentence_transformers.") else f"{kind.__module__}.{kind.__name__}"
    )


def _require_known_modules(source: str, pipeline: Any) -> None:
    """Raise WeightsError for a pipeline with other modules than the supported ones."""
    first, *steps = map(_kind, pipeline)
    allowed = {"Transformer": _AFTER_TOKENS, "StaticEmbedding": _AFTER_VECTORS}.get(first)
    if allowed is None:
        raise WeightsError(
            f"{source} starts with the module {first}, expected Transformer or StaticEmbedding: it is not supported"
        )
    unknown = [step for step in steps if step not in allowed]
    if unknown:
        raise WeightsError(
            f"{source} has the module {unknown[0]} after {first}, supported are {', '.join(allowed)}: "
            "register a loader of yours for this pipeline"
        )
    if first == "Transformer" and "Pooling" not in steps:
        raise WeightsError(f"{source} has no module Pooling, so it gives no row per text: add one to the pipeline")


def _static(pipeline: Any, prompts: Prompts) -> tuple[nn.Module, int]:
    from midrib.backbones._nets.text_encoder import StaticTextEncoder
    from midrib.backbones._texts import FastTokenizer

    width = int(pipeline.get_embedding_dimension())
    table, *steps = pipeline
    tokenizer = FastTokenizer(table.tokenizer, max_tokens=LONGEST, prompts=prompts, special=False)
    vectors = table.embedding.weight.detach()
    modules = _settings(steps)
    return StaticTextEncoder(vectors, tokenizer, max_tokens=LONGEST, steps=steps, width=width, modules=modules), width


def _encoder(pipeline: Any, prompts: Prompts, source: str) -> tuple[nn.Module, int]:
    from midrib.backbones._nets.text_encoder import SentenceEncoder, architecture

    width = int(pipeline.get_embedding_dimension())
    transformer, *steps = pipeline
    config, tokenizer = transformer.auto_model.config, pipeline.tokenizer
    longest = min(pipeline.max_seq_length or LONGEST, longest_text(config, tokenizer))
    if not all(getattr(step, "include_prompt", True) for step in steps):
        prompts = replace(prompts, unpooled=True, closing_ids=frozenset(tokenizer.all_special_ids))
    module = SentenceEncoder(
        pipeline,
        fast_tokenizer(source, tokenizer, longest, prompts),
        max_tokens=longest,
        vocabulary=config.vocab_size,
        width=width,
        modules={"Transformer": architecture(config), **_settings(steps)},
    )
    require_mask_used(source, module, config.model_type)
    return module, width


def _settings(steps: list[Any]) -> dict[str, Any]:
    """Return the configuration of each module, by its place and class: it decides the features besides the weights."""
    return {f"{place} {_kind(step)}": step.get_config_dict() for place, step in enumerate(steps, 1)}


def _prompts(name: str, pipeline: Any, choice: PromptChoice) -> Prompts:
    """Return the prompts of a pipeline. choice: its default prompt; by default the one that the pipeline names."""
    named = {key: text or "" for key, text in pipeline.prompts.items()}
    prompts = Prompts(named.get(pipeline.default_prompt_name, ""), named)
    chosen = choose_prompt(name, prompts, choice)
    return prompts if chosen is None else replace(prompts, default=chosen)
