"""Compare our features with those of transformers for every model type that AutoModel of the installed version knows.

    python benchmarks/parity/model_types.py [TYPE ...] > benchmarks/parity/model_types.md

Each type is tried in a forked process, as a folder with a small random model and a tokenizer of whole words. Exit
status 1 if the features of a type differ from the library's.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from families import WORDS, tokenizer
from numpy.typing import NDArray
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from midrib.backbones import WeightsError, load_backbone
from midrib.registry import ContractError, TextInput

transformers: Any = importlib.import_module("transformers")  # it has types in parts only

TEXTS: Final = ("a cat sleeps", "x", "upper lower mixed word numbers code for int leading inner spaces and lines")
RATE: Final = 16000
MAX_DIFFERENCE: Final = 1e-5
_SECONDS_PER_TYPE: Final = 120.0
_MOST_PARAMETERS: Final = 60_000_000
# Sizes by the names that configurations have for them.
_WIDTHS: Final = (
    "hidden_size",
    "d_model",
    "n_embd",
    "dim",
    "embedding_size",
    "emb_dim",
    "embed_dim",
    "word_embed_proj_dim",
)
_LAYERS: Final = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"),
    *("num_encoder_layers", "num_decoder_layers", "num_attention_heads", "num_key_value_heads", "n_head", "n_heads"),
    *("num_heads", "encoder_attention_heads", "decoder_attention_heads", "num_local_experts", "num_experts"),
    *("n_routed_experts", "num_experts_per_tok", "num_kv_heads"),
)
_INNER: Final = (
    *("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "d_inner", "n_inner", "hidden_dim"),
    *("moe_intermediate_size", "shared_expert_intermediate_size"),
)
_SIZES: Final[dict[str, int]] = {
    **dict.fromkeys(_WIDTHS, 16),
    **dict.fromkeys(_LAYERS, 2),
    **dict.fromkeys(_INNER, 32),
    **dict.fromkeys(("head_dim", "d_kv", "kv_channels", "d_head"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 80),
    "vocab_size": len(WORDS),
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 2,
}


_SPECIAL: Final[dict[str, dict[str, Any]]] = {
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1},
    "reformer": {"axial_pos_embds": False},
    "luke": {"entity_vocab_size": 9},
}


class Outcome(NamedTuple):
    """Of one type.  kind: "equal", "refused", "not made" (no small model) or "DIFFERENT".  detail: for people."""

    kind: str
    detail: str


def model_types() -> list[str]:
    """Return the types for which AutoModel has a class."""
    return sorted(name for name in MODEL_MAPPING_NAMES if name in transformers.CONFIG_MAPPING)


def try_type(model_type: str) -> Outcome:
    """Return how our loader treats a small random model of the type."""
    if model_type == "whisper":
        return Outcome("equal", "compared by run.py, with its own extractor")
    outcome = Outcome("not made", "its configuration takes none of the small sizes")
    for config in _small_configs(model_type):
        with tempfile.TemporaryDirectory() as folder:
            outcome = _try_config(config, folder)
        if outcome.kind != "not made":
            break
    return outcome


def _try_config(config: Any, folder: str) -> Outcome:
    words = tokenizer()
    words.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    try:
        config.save_pretrained(folder)
        if (refusal := _refusal(folder)) is not None and "holds a model of type" in refusal:
            return Outcome("refused", refusal)
        _small_model(config).save_pretrained(folder)
    except Exception as error:  # noqa: BLE001 (each type has its kind of error)
        return Outcome("not made", _first_line(error))
    if (refusal := _refusal(folder)) is not None:
        return Outcome("refused", refusal)
    return _compared(folder, words)


def _small_configs(model_type: str) -> Iterator[Any]:
    """Yield configurations of small sizes, the smallest first; some types refuse a few of the sizes."""
    kind = transformers.CONFIG_MAPPING[model_type]
    defaults = kind()
    accepted = {name for name in (*dir(defaults), *defaults.to_dict()) if not name.startswith("_")}
    special = _SPECIAL.get(model_type, {})
    for left_out in ((), ("head_dim",), _LAYERS, (*_LAYERS, *_WIDTHS), ("max_position_embeddings",)):
        sizes = {name: size for name, size in (_SIZES | special).items() if name in accepted and name not in left_out}
        with contextlib.suppress(Exception):
            config = kind(**sizes)
            classes = MODEL_MAPPING_NAMES[model_type]  # several for Funnel: AutoModel takes the one that is named
            config.architectures = [classes if isinstance(classes, str) else classes[0]]
            yield config


def _small_model(config: Any) -> Any:
    """Return the random model of a configuration. Raises ValueError if it is too large to be tried."""
    with torch.device("meta"):
        count = sum(weight.numel() for weight in transformers.AutoModel.from_config(config).parameters())
    if count > _MOST_PARAMETERS:
        raise ValueError(f"its smallest model has {count:,} parameters")
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(config).eval()


def _refusal(folder: str) -> str | None:
    """Return the text of our loader's error; None if it loads the folder."""
    try:
        load_backbone("transformers/parity/model", checkpoint=folder)
    except (WeightsError, ContractError) as error:
        return str(error).replace(folder, "FOLDER").replace("\n", " ")
    return None


def _compared(folder: str, words: Any) -> Outcome:
    """Compare the features of one batch with those of the library, one item at a time."""
    backbone = load_backbone("transformers/parity/model", checkpoint=folder)
    model = transformers.AutoModel.from_pretrained(folder).eval().float()
    has_both = all(getattr(model, part, None) is not None for part in ("encoder", "decoder"))
    encoder = model.get_encoder() if has_both else model
    if isinstance(backbone.input, TextInput):
        features, inputs = backbone.embed_texts(list(TEXTS)), [_inputs(words, text) for text in TEXTS]
    else:
        features, inputs = backbone.embed_audio(_clips(), RATE), [_samples(clip) for clip in _clips()]
    with torch.inference_mode():
        states = [encoder(**item).last_hidden_state[0] for item in inputs]
    expected = torch.stack([state.float().mean(0) for state in states])
    difference = float((features - expected).abs().max() / expected.abs().max())
    return Outcome("equal" if difference <= MAX_DIFFERENCE else "DIFFERENT", f"{difference:.0e}")


def _clips() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [(0.1 * random.standard_normal(length)).astype(np.float32) for length in (RATE, RATE + 4000)]


def _samples(clip: NDArray[np.float32]) -> dict[str, Any]:
    return {
        "input_values": transformers.Wav2Vec2FeatureExtractor()(
            clip, sampling_rate=RATE, return_tensors="pt"
        ).input_values
    }


def _inputs(words: Any, text: str) -> dict[str, Any]:
    encoded = words(text, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _forked(model_type: str) -> Outcome:
    """Try a type in a process, which may end, or compute for too long."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(model_type, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(_SECONDS_PER_TYPE):
            return Outcome("not made", f"nothing within {_SECONDS_PER_TYPE:.0f} s")
        return Outcome(*receiver.recv())
    except EOFError:
        return Outcome("not made", "the process ended")
    finally:
        process.kill()
        process.join()


def _send(model_type: str, sender: Any) -> None:
    with _quiet():
        try:
            outcome = try_type(model_type)
        except Exception as error:  # noqa: BLE001 (an error that users would see)
            outcome = Outcome("DIFFERENT", _first_line(error))
    sender.send(tuple(outcome))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send the libraries' own output nowhere."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
    ):
        yield


def main(chosen: Sequence[str]) -> int:
    """Print a table row for each type; return the exit status."""
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    _write("# Every model type of transformers\n")
    _write("Made by `python benchmarks/parity/model_types.py`; [README.md](README.md) explains it.\n")
    _write("| type | outcome | largest difference, as a share of the largest feature, or the error |\n|---|---|---|")
    counts: Counter[str] = Counter()
    for name in chosen or model_types():
        outcome = _forked(name)
        counts[outcome.kind] += 1
        _write(f"| {name} | {outcome.kind} | {outcome.detail.replace('|', '/')} |")
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    _write(f"\ntransformers {transformers.__version__}: {listed}.")
    return int("DIFFERENT" in counts)


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
