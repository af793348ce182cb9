"""The properties of a backbone that the server needs, in whichever process its module is. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from midrib.registry import InputSpec
from midrib.server._engine.batch_limits import BatchLimits
from midrib.server._intake.values import IdRange
from midrib.server._settings import Settings


@dataclass(frozen=True)
class ServingInfo:
    """The properties of a loaded backbone that the server needs to accept calls for it; picklable.

    devices: the names of all devices that the settings mean.  weight_bytes: the size of its weights, per device.
    ids: the token ids that the module looks up.
    tokenizer: the tokenizer of a text backbone; None for other backbones.
    """

    name: str
    revision: str
    num_features: int
    input: InputSpec
    dtype: str
    devices: tuple[str, ...]
    weight_bytes: int
    ids: IdRange
    tokenizer: Any = None


def batch_limits(settings: Settings) -> BatchLimits:
    """Return the limits of the settings on a batch and on the queue."""
    return BatchLimits(
        max_rows=settings.max_batch_rows,
        max_cost=settings.max_batch_elements,
        max_queue_items=settings.max_queue_items,
        max_queue_cost=4 * settings.max_batch_elements,
        max_delay_s=settings.max_delay_ms / 1000,
    )
