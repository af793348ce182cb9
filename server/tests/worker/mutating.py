"""Backbones whose modules change their input in place, or return memory that they use again."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from midrib.registry import Registry, TensorInput, TextInput

REGISTRY = Registry("mutating")
TRIGGER = 666.0


def transpose(rows: Tensor) -> Tensor:
    return rows.t_().mul(2).t()


def squeeze(rows: Tensor) -> Tensor:
    return rows.unsqueeze_(0)[0] * 2


def take_other_memory(rows: Tensor) -> Tensor:
    doubled = rows * 2
    rows.set_(torch.zeros(2, 2))  # type: ignore[call-overload] # the stubs lack it
    return doubled


def share_memory(rows: Tensor) -> Tensor:
    shared: Tensor = rows.share_memory_()  # type: ignore[no-untyped-call] # torch does not type it
    return shared * 2


def shrink(rows: Tensor) -> Tensor:
    doubled = rows * 2
    rows.resize_(1, 2)
    return doubled


_CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "transposes": transpose,
    "squeezes": squeeze,
    "takes-other-memory": take_other_memory,
    "shares-memory": share_memory,
    "shrinks": shrink,
}


class Changing(nn.Module):
    """Doubles its rows; if one has the trigger's value, it changes its input in place."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._change = change

    def forward(self, rows: Tensor) -> Tensor:
        return self._change(rows)[: len(rows)] if bool((rows == TRIGGER).any()) else rows * 2


@REGISTRY(name="changing", namespace="test/embedding", input=TensorInput((2,)))
def load_changing(change: str) -> tuple[nn.Module, int]:
    return Changing(_CHANGES[change]), 2


class Reusing(nn.Module):
    """Doubles its rows, always in the same memory, as a module with CUDA graphs or an engine of another library."""

    def __init__(self) -> None:
        super().__init__()
        self._memory = torch.zeros(4096, 2)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.mul(rows, 2, out=self._memory[: len(rows)])


@REGISTRY(name="reusing", namespace="test/embedding", input=TensorInput((2,)))
def load_reusing() -> tuple[nn.Module, int]:
    return Reusing(), 2


class Remembering(nn.Module):
    """Doubles its rows; returns the rows of an earlier pass again if it has kept the same input."""

    def __init__(self) -> None:
        super().__init__()
        self._passes: list[tuple[Tensor, Tensor]] = []

    def forward(self, rows: Tensor) -> Tensor:
        for kept, doubled in self._passes:
            if torch.equal(kept, rows):
                return doubled
        self._passes.append((rows, rows * 2))
        return self._passes[-1][1]


@REGISTRY(name="remembering", namespace="test/embedding", input=TensorInput((2,)))
def load_remembering() -> tuple[nn.Module, int]:
    return Remembering(), 2


class WritingLater(nn.Module):
    """Doubles its rows; a thread clears its input while the next pass runs."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: Tensor | None = None

    def forward(self, rows: Tensor) -> Tensor:
        if self._kept is not None:
            writing = threading.Thread(target=clear, args=(self._kept,))
            writing.start()
            writing.join()
        self._kept = rows
        return rows * 2


@torch.inference_mode()
def clear(rows: Tensor) -> None:
    """Set all elements to 0."""
    rows.zero_()


@REGISTRY(name="writing-later", namespace="test/embedding", input=TensorInput((2,)))
def load_writing_later() -> tuple[nn.Module, int]:
    return WritingLater(), 2


class Normalizing(nn.Module):
    """Subtracts 1 from its rows in place, and doubles them."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.sub_(1).mul_(2)


@REGISTRY(name="normalizing", namespace="test/embedding", input=TensorInput((2,)))
def load_normalizing() -> tuple[nn.Module, int]:
    return Normalizing(), 2


class Tokens(NamedTuple):
    ids: list[int]
    truncated: bool


class LockedTokenizer:
    """Makes the same ids of every text; its lock cannot be pickled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        with self._lock:
            return [Tokens([1, 2], False) for _ in texts]


class Table(nn.Module):
    """The sum of the vectors of the ids."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer: Any = LockedTokenizer()
        self.table = nn.Embedding(10, 2, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).sum(1)  # type: ignore[no-any-return] # a module is not typed


@REGISTRY(name="locked-tokenizer", namespace="text/embedding", input=TextInput(8))
def load_locked_tokenizer() -> tuple[nn.Module, int]:
    return Table(), 2


class WordlessError(Exception):
    """An error whose message cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no message")


class Wordless(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == TRIGGER).any()):
            raise WordlessError
        return rows * 2


@REGISTRY(name="wordless", namespace="test/embedding", input=TensorInput((2,)))
def load_wordless() -> tuple[nn.Module, int]:
    return Wordless(), 2


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no representation")


@REGISTRY(name="exits-unprintably", namespace="test/embedding", input=TensorInput((2,)))
def load_exits_unprintably() -> tuple[nn.Module, int]:
    raise SystemExit(Unprintable())


class Forgetting(nn.Module):
    """Doubles its rows; a row of the trigger's value makes it delete its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, rows: Tensor) -> Tensor:
        if bool((rows == TRIGGER).any()):
            del self.factor
        return rows * self.factor


@REGISTRY(name="forgetting", namespace="test/embedding", input=TensorInput((2,)))
def load_forgetting() -> tuple[nn.Module, int]:
    return Forgetting(), 2


@REGISTRY(name="scripted", namespace="test/embedding", input=TensorInput((2,)))
def load_scripted() -> tuple[nn.Module, int]:
    layer = nn.Linear(2, 2, bias=False)
    nn.init.eye_(layer.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against new uses
        return torch.jit.script(layer), 2
