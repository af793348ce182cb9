"""Have timm load every weight: it fills missing ones with random numbers whenever the classifier is dropped."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from typing import Any

from midrib.backbones._torchvision import import_timm
from midrib.backbones._weights import require_fit

# The layers that classifiers are called by timm, torchvision and the projects whose files timm reads, and the heads on
# which self-supervised training puts its loss.
_HEADS = (
    *("fc", "classifier", "head", "heads", "head_dist", "aux_head", "last_linear", "logits"),
    *("projection_head", "projector", "prototypes", "predictor"),
)
_PATCHING = threading.Lock()


def is_head(name: str) -> bool:
    """Return whether a weight of that name belongs to a classifier."""
    return name.split(".")[0] in _HEADS


@contextlib.contextmanager
def every_weight_loaded(source: str, *, strict: bool) -> Iterator[None]:
    """Within it, timm.create_model raises WeightsError, naming source, if the model has weights that the state lacks.

    strict: refuse weights that the model does not have too, except those of a classifier.
    timm reports neither: it loads with strict=False and writes the difference into a log. Its function that loads a
    model is replaced meanwhile, one thread at a time.
    """
    import_timm()
    builder: Any = importlib.import_module("timm.models._builder")
    original = builder.load_pretrained

    def load_and_check(model: Any, *args: Any, **kwargs: Any) -> None:
        """Do the same as timm's function, with the check."""
        handle = model.register_load_state_dict_post_hook(check)
        try:
            original(model, *args, **kwargs)
        finally:
            handle.remove()

    def check(model: Any, difference: Any) -> None:
        unexpected = [name for name in difference.unexpected_keys if not is_head(name)] if strict else []
        require_fit(type(model).__name__, source, {"lack": difference.missing_keys, "have besides": unexpected})

    with _PATCHING:
        builder.load_pretrained = load_and_check
        try:
            yield
        finally:
            builder.load_pretrained = original
