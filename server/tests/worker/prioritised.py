"""Backbones that report the scheduling policies of their process. A fresh process imports them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput
from midrib.server._worker.priority import lower_priority

REGISTRY = Registry("prioritised")
TRIGGER = 666.0


@dataclass
class Report:
    """A worker that only has properties. Implements `midrib.server._worker.loop.Hosted`, as far as it is used."""

    info: dict[str, int]


_REPORT = Report({})


def _note_policy() -> None:
    _REPORT.info["at fork"] = os.sched_getscheduler(0)


os.register_at_fork(before=_note_policy)


def report(_request: dict[str, Any]) -> Report:
    """Return the policies of the process that forked this one, and of this one."""
    _REPORT.info["at load"] = os.sched_getscheduler(0)
    return _REPORT


class Policies(nn.Module):
    """Returns its policies for a row of the trigger's value: at load, and now those of threads and of a process."""

    def __init__(self) -> None:
        super().__init__()
        self._at_load = os.sched_getscheduler(0)
        self._thread = threading.Thread(target=time.sleep, args=(3600,), daemon=True)
        self._thread.start()
        self._process = subprocess.Popen(["/bin/sleep", "3600"])

    def forward(self, rows: Tensor) -> Tensor:
        if not bool((rows == TRIGGER).any()):
            return rows.repeat(1, 2)
        now = [os.sched_getscheduler(task or 0) for task in (0, self._thread.native_id, self._process.pid)]
        return torch.tensor([[float(policy) for policy in (self._at_load, *now)]]).repeat(len(rows), 1)


@REGISTRY(name="unprivileged", namespace="test/embedding", input=TensorInput((2,)))
def load_without_privileges() -> tuple[nn.Module, int]:
    """Give up the right to raise a priority."""
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
    os.setuid(65534)
    return Policies(), 4


@REGISTRY(name="policies", namespace="test/embedding", input=TensorInput((2,)))
def load_policies() -> tuple[nn.Module, int]:
    return Policies(), 4


@REGISTRY(name="patient", namespace="test/embedding", input=TensorInput((2,)))
def load_patient() -> tuple[nn.Module, int]:
    """Compute until this thread has normal priority."""
    while os.sched_getscheduler(0) != os.SCHED_OTHER:
        pass
    return nn.Identity(), 2


@REGISTRY(name="late", namespace="test/embedding", input=TensorInput((2,)))
def load_late() -> tuple[nn.Module, int]:
    """Lower the priority once more after it was raised, like a process that other work holds up in its first steps."""
    for _ in range(2):
        lower_priority()
        while os.sched_getscheduler(0) != os.SCHED_OTHER:
            pass
    return nn.Identity(), 2


@REGISTRY(name="locking", namespace="test/embedding", input=TensorInput((2,)))
def load_locking() -> tuple[nn.Module, int]:
    """Compute until this thread has normal priority, and let no other thread of this process run meanwhile."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(3600.0)
    while os.sched_getscheduler(0) != os.SCHED_OTHER:
        pass
    sys.setswitchinterval(interval_s)
    return nn.Identity(), 2
