"""Common parts of the loaders of transformers and sentence-transformers: sources, errors and tokenizers."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midrib.backbones._errors import WeightsError
from midrib.backbones._loaders.file_kinds import looks_like
from midrib.backbones._loaders.hub_cache import damage, damaged_file
from midrib.backbones._torchvision import import_transformers

if TYPE_CHECKING:
    from midrib.backbones._texts import FastTokenizer
    from midrib.backbones._tokens import Prompts

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".model")
_PICKLES = (".bin", ".pt", ".pth")
# Parts of the libraries' errors that tell their reader less than we can.
_REMEDIES = {
    "ignore_mismatched_sizes": "its weights have other shapes than its config.json says: give files of one model",
    "custom code": "it needs code that comes with it, which is never run: choose a model that the library defines",
    "quantiz": "quantised weights are not supported: give the folder of the model that was quantised",
}
LONGEST = 8192
_PROBED_TOKENS = 5
_PADDING_TOLERANCE = 5e-5


def source_of(name: str, checkpoint: str | Path | None) -> str:
    """Return the folder or the hub's name from which to load.

    Raises WeightsError if the folder does not exist, ValueError if name is not a name on the hub.
    """
    if checkpoint is not None:
        if not Path(checkpoint).is_dir():
            raise WeightsError(f"no folder {checkpoint}: give the folder that save_pretrained wrote")
        return str(checkpoint)
    # The libraries read a folder of that name if one exists, which the caller did not mean.
    if not _HUB_NAME.fullmatch(name) or Path(name).exists():
        raise ValueError(
            f"got {name!r}, expected a name on the hub, such as owner/model: for a folder pass checkpoint="
        )
    return name


@contextlib.contextmanager
def explained(source: str) -> Iterator[None]:
    """Raise WeightsError, naming source, for every error that the libraries raise for missing or damaged files."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        # transformers, tokenizers, safetensors and the hub raise nearly every kind of error, some of them bare.
        reason = str(error).strip().splitlines()
        problem = f"{type(error).__name__}: {reason[0] if reason else ''}"
        raise WeightsError(f"{source} cannot be loaded ({problem}): {_remedy(source, str(error))}") from error


def _remedy(source: str, problem: str) -> str:
    return next((remedy for part, remedy in _REMEDIES.items() if part in problem), None) or _advice(source)


def _advice(source: str) -> str:
    if not Path(source).is_dir():
        file = damaged_file(source)
        return (
            "check the name and the network, or pass checkpoint=FOLDER with its files"
            if file is None
            else damage(source, file)
        )
    for file in sorted(Path(source).rglob("*")):
        hint = looks_like(file) if file.suffix in _WEIGHT_FILES and file.is_file() else None
        # A whole safetensors file is only said to be damaged if nothing else explains the error.
        if hint is not None and (file.suffix != ".safetensors" or not _is_whole(file)):
            return f"{file.relative_to(source)}: {hint}"
        if file.suffix == ".json" and not _is_json(file):
            return f"{file.relative_to(source)}: {looks_like(file) or 'it is damaged, download it again'}"
    names = [path.name for path in Path(source).iterdir()]
    if any(name.endswith(_PICKLES) for name in names) and not any(name.endswith(".safetensors") for name in names):
        return "only safetensors are read, pickles may run code: save it again with save_pretrained"
    return "give a folder that save_pretrained wrote, with all its files"


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False
    return True


def _is_whole(file: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):
            return True
    except (SafetensorError, OSError):
        return False


def refuse_adapter(source: str, *, offline: bool) -> None:
    """Raise WeightsError if source holds an adapter (LoRA) and peft is missing: transformers would leave it out."""
    from importlib.util import find_spec

    from transformers.utils.peft_utils import find_adapter_config_file

    if find_spec("peft") is not None:
        return
    adapters = [*Path(source).rglob("adapter_config.json")] if Path(source).is_dir() else []
    with explained(source):
        has_adapter = adapters or find_adapter_config_file(source, local_files_only=offline)
    if has_adapter:
        raise WeightsError(
            f"{source} holds an adapter (adapter_config.json), which needs peft: pip install peft, "
            "or merge the adapter into its model (merge_and_unload) and save that"
        )


def base_of(source: str) -> str:
    """Return the model that a folder with nothing but an adapter was trained on; source itself for all others.

    Raises WeightsError if the adapter does not name its model.
    """
    adapter = Path(source) / "adapter_config.json"
    if (Path(source) / "config.json").exists() or not adapter.is_file():
        return source
    with explained(source):
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise WeightsError(f"{adapter} does not name the adapter's model: merge it (merge_and_unload) and save that")
    return str(base)


def fast_tokenizer(source: str, tokenizer: Any, longest: int, prompts: Prompts) -> FastTokenizer:
    """Return a tokenizer of transformers as ours.

    Raises WeightsError if it has no vocabulary, because its files are missing, is written in Python, or is not of the
    kind that its file says.
    """
    from midrib.backbones._texts import FastTokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise WeightsError(
            f"the tokenizer of {source}, {type(tokenizer).__name__}, has no version in the tokenizers library: "
            "it is not supported, choose another model"
        )
    # transformers makes an empty tokenizer of the right class even without files: it would know no word.
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    if not words:
        raise WeightsError(
            f"{source} has no tokenizer: add its files, such as tokenizer.json (tokenizer.save_pretrained(FOLDER))"
        )
    _require_own_kind(source, backend)
    side = getattr(tokenizer, "truncation_side", "right")
    return FastTokenizer(backend, max_tokens=longest, prompts=prompts, truncation_side=side)


def _require_own_kind(source: str, backend: Any) -> None:
    """Raise WeightsError if transformers made a tokenizer of another kind than the one in source's tokenizer.json.

    It does so for some types of models, such as a Qwen2 with a list of words: the tokenizer would drop every word.
    """
    from tokenizers import Tokenizer

    file = _tokenizer_file(source)
    if file is None:
        return
    with explained(source):
        expected, actual = (type(words.model).__name__ for words in (Tokenizer.from_file(str(file)), backend))
    if actual != expected:
        raise WeightsError(
            f"transformers reads the tokenizer of {source} as {actual}, but its tokenizer.json holds {expected}: "
            "its token ids would be wrong, choose another model"
        )


def _tokenizer_file(source: str) -> Path | None:
    """Return the tokenizer.json of a folder, or of the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    if Path(source).is_dir():
        file = Path(source) / "tokenizer.json"
        return file if file.is_file() else None
    cached = try_to_load_from_cache(source, "tokenizer.json")
    return Path(cached) if isinstance(cached, str) else None


def longest_text(config: Any, tokenizer: Any) -> int:
    """Return how many tokens both the tokenizer and the network's positions allow."""
    positions = getattr(config, "max_position_embeddings", None) or LONGEST
    if positions < 0:  # XLNet's -1: no limit
        positions = LONGEST
    if "roberta" in config.model_type or config.model_type in ("camembert", "mpnet"):
        # Their positions are counted from the padding's id on.
        positions -= (config.pad_token_id or 0) + 1
    return int(min(tokenizer.model_max_length, positions, LONGEST))


def require_mask_used(source: str, module: Any, kind: str) -> None:
    """Raise WeightsError if padding changes the features of a text: they would depend on the rest of its batch.

    FNet ignores the attention mask, for example. A model that needs more than token ids is a WeightsError too.
    module: maps ids [rows, tokens] to [rows, width].  kind: the type of its model, for the error.
    """
    import torch

    tokens = min(_PROBED_TOKENS, module.input.max_tokens // 2)
    words = torch.arange(1, tokens + 1)[None].remainder(module.vocabulary).clamp(min=1)
    padded = torch.nn.functional.pad(words, (0, tokens))
    module.eval()
    try:
        with torch.inference_mode():
            unpadded, with_padding = module(words), module(padded)
    except Exception as error:
        # Each model has its kind of error for inputs that it lacks.
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"{source} holds a model of type {kind!r} that does not compute features of token ids "
            f"({type(error).__name__}: {reason}): it is not supported, choose another model"
        ) from error
    if float((unpadded - with_padding).abs().max()) > _PADDING_TOLERANCE * float(unpadded.abs().max()):
        raise WeightsError(
            f"{source} holds a model of type {kind!r} that reads padding as text, so that the vector of a text would "
            "depend on the rest of its batch: it is not supported, choose another model"
        )


def auto(kind: str, source: str, **options: Any) -> Any:
    """Call transformers' Auto<kind>.from_pretrained without running code that comes with the model.

    Raises WeightsError for everything that cannot be loaded.
    """
    loader = getattr(import_transformers(), f"Auto{kind}")
    with explained(source):
        return loader.from_pretrained(source, trust_remote_code=False, **options)
