"""Check the features of a backbone whose loader was not checked, such as a pair (module, num_features)."""

from __future__ import annotations

from torch import Tensor

from midrib.registry import ContractError


def checked_features(features: object, rows: int, num_features: int) -> Tensor:
    """Return the features of a batch: [rows, ..., num_features].

    Raises ContractError for another type or shape: rows that are lost would be those of other items.
    """
    if not isinstance(features, Tensor):
        raise ContractError(
            f"the backbone returned a {type(features).__name__}, expected one tensor [rows, num_features]: wrap it in "
            "a module that returns its features alone"
        )
    shape = features.shape
    if len(shape) < 2 or (shape[0], shape[-1]) != (rows, num_features) or not features.is_floating_point():
        dtype = str(features.dtype).removeprefix("torch.")
        raise ContractError(
            f"the backbone returned {list(shape)} of {dtype} for {rows} rows, expected [{rows}, {num_features}], "
            "floating: return one row per item, and declare its width as num_features"
        )
    return features
