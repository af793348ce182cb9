"""Predictions and embeddings of a task, in the order of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler
from tqdm import tqdm  # type: ignore[import-untyped] # it has no types

from midrib.task._base import TaskBase, to_device
from midrib.task._data.locations import items_at
from midrib.task._data.module import DataModule
from midrib.task._features.input_errors import explained
from midrib.task._tasks.outputs import OutputLike, output_of

_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def predict(task: TaskBase, data: Any, output: OutputLike, batch_size: int) -> Any:
    """Return one row of output per item: a tensor [rows, ...], or a list."""
    data = _located(task, data)
    with _predicting(task):
        parts = []
        for inputs in _batches(task, data, batch_size):
            with explained(task.input_if_known, inputs):
                parts.append(output_of(task, inputs, output))
    if all(isinstance(part, Tensor) for part in parts):
        return torch.cat([part.cpu() for part in parts])
    return [row for part in parts for row in part]


def embed(task: TaskBase, data: Any, *, progress: bool, batch_size: int) -> npt.NDArray[np.floating[Any]]:
    """Return the features of every item: [rows, num_features], float32 or the backbone's wider type."""
    parts = []
    data = _located(task, data)
    with _predicting(task), tqdm(total=_rows(data), disable=not progress, unit="rows", desc="embed") as bar:
        for inputs in _batches(task, data, batch_size):
            with explained(task.input_if_known, inputs):
                features = task.features(inputs).cpu()
            parts.append(features.float().numpy() if features.itemsize < 4 else features.numpy())
            bar.update(len(inputs))
    rows: npt.NDArray[np.floating[Any]] = np.concatenate(parts)
    return rows


def inputs_of(task: TaskBase, batch: Any) -> Any:
    """Return the inputs of a batch with or without targets."""
    if isinstance(batch, Tensor) or _are_texts(batch):
        return batch
    if isinstance(batch, Mapping) and "input" in batch:
        return batch["input"]
    if isinstance(batch, tuple | list) and len(batch) == 1:
        return torch.as_tensor(batch[0])
    return task.split_batch(batch)[0]


def _are_texts(batch: Any) -> bool:
    return isinstance(batch, tuple | list) and bool(batch) and all(isinstance(item, str) for item in batch)


@contextmanager
def _predicting(task: TaskBase) -> Iterator[None]:
    was_training = task.training
    task.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        task.train(was_training)
        if task.cache is not None:
            task.cache.flush()


def _batches(task: TaskBase, data: Any, batch_size: int) -> Iterator[Any]:
    """Return batches of any input. Raises ValueError for a batch_size below 1."""
    if batch_size < 1:
        raise ValueError(f"got batch_size={batch_size}, expected at least 1")
    batch = None
    for batch in _of_loader(task, data) if isinstance(data, DataLoader) else _of_items(task, data, batch_size):
        yield to_device(task, batch)
    if batch is None:  # no items: one empty batch gives the result its shape
        yield torch.empty(0, device=task.device)


def _located(task: TaskBase, data: Any) -> Any:
    """Return the loader of a data module, or the items at a path; other data unchanged."""
    if isinstance(data, DataModule):
        data.connect(task)
        return data.loader("predict")
    if isinstance(data, Path) or (isinstance(data, str) and Path(data).exists()):
        return items_at(data, task.input).sources
    return data


def _of_loader(task: TaskBase, loader: DataLoader[Any]) -> Iterator[Any]:
    """Return the batches of a loader. Raises ValueError if it shuffles, or drops rows."""
    if isinstance(loader.sampler, _SHUFFLING) or loader.drop_last:
        raise ValueError(
            f"got a DataLoader with {type(loader.sampler).__name__} and drop_last={loader.drop_last}, expected one "
            "that gives every row in order: make it with shuffle=False, drop_last=False"
        )
    return (inputs_of(task, batch) for batch in loader)


def _of_items(task: TaskBase, items: Any, batch_size: int) -> Iterator[Any]:
    """Return batches of a list of items. Raises TypeError for another type."""
    if isinstance(items, str | bytes) or not isinstance(items, Tensor | np.ndarray | Sequence):
        missing = f" {items!r:.80}, which is not an existing path" if isinstance(items, str) else ""
        raise TypeError(
            f"got {type(items).__name__}{missing}, expected a DataLoader, a data module, the path of a folder or a "
            "table, a tensor or array of inputs, or a list of images, texts, clips or their paths"
        )
    prepare = task.preparation()
    for start in range(0, len(items), batch_size):
        yield prepare(items[start : start + batch_size])


def _rows(data: Any) -> int | None:
    rows = data.dataset if isinstance(data, DataLoader) else data
    return len(rows) if hasattr(rows, "__len__") else None
