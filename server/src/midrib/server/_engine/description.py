"""The properties of a served backbone that its clients may know."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from midrib.registry import InputSpec


class State(Enum):
    """The state of a served name, from the request to load it until it is unloaded."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True)
class ServedDescription:
    """The properties of a served backbone that its clients may know.

    name: `namespace/name`.  num_features: the width of a row out.  dtype: the type that the forward pass computes in.
    """

    name: str
    revision: str
    num_features: int
    input: InputSpec
    device: str
    dtype: str
    license: str
