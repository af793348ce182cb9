"""Page-locked memory, from which a GPU copies while the processor does other work."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from midrib.wire import Array

logger = logging.getLogger(__name__)


class PageLocks:
    """Locks the pages of shared memory that this process has mapped, once for each mapping.

    They are unlocked when the last array of the mapping is freed, before it is unmapped.
    """

    def __init__(self) -> None:
        self._unlocks: dict[int, Callable[[int], object] | None] = {}

    def lock(self, array: Array) -> bool:
        """Lock the whole mapping that an array [...] is a view of; return whether it is locked.

        If it is not, the log says why.
        """
        mapping = array.base if isinstance(array.base, np.ndarray) else array
        address = mapping.__array_interface__["data"][0]
        if address not in self._unlocks:
            self._unlocks[address] = _locked(address, mapping.nbytes)
            weakref.finalize(mapping, self._unlock, address).atexit = False
        return self._unlocks[address] is not None

    def _unlock(self, address: int) -> None:
        if unlock := self._unlocks.pop(address):
            unlock(address)


def _locked(address: int, size: int) -> Callable[[int], object] | None:
    """Lock memory; return the function that unlocks it, or None if CUDA refuses."""
    try:
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call] # torch does not type it
        status = int(runtime.cudaHostRegister(address, size, 0))
    except Exception as error:  # noqa: BLE001 - batches are then copied to other memory first
        logger.warning("shared memory cannot be page-locked, so batches are copied once more: %s", error)
        return None
    if status:
        logger.warning("shared memory cannot be page-locked (CUDA error %d): batches are copied once more", status)
        return None
    unlock: Callable[[int], object] = runtime.cudaHostUnregister
    return unlock
