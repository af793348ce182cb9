"""Values of an Arrow column as items to embed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped] # it has no types

from midrib.remote._files.items import SourceItem, value_item
from midrib.remote._files.storage import LocalFile
from midrib.wire import Array

Kind: TypeAlias = Literal["images", "texts", "audio", "tensor"]
KINDS: Final = ("images", "texts", "audio", "tensor")


def column_items(column: pa.ChunkedArray, kind: Kind | None) -> Iterator[SourceItem]:
    """Yield the item of each row; its id is the row's number in the column.

    kind: how to read texts (for images and audio: paths) and arrays (for images: uint8 pixels [height, width, 3]).
    None: a text is embedded as text, an array as a tensor, and bytes by their content.
    """
    for row, value in enumerate(column_values(column)):
        yield _item(str(row), value, kind)


def column_values(column: pa.ChunkedArray) -> Iterator[Any]:
    """Yield the values: arrays for lists of numbers and for Ray's tensors, Python objects otherwise."""
    if isinstance(column.type, pa.ExtensionType):  # Ray's tensors
        for chunk in column.chunks:
            yield from chunk.to_numpy(zero_copy_only=False)
    elif (dtype := _number_type(column.type)) is not None:
        yield from (None if value is None else _array(value, dtype) for value in column.to_pylist())
    else:
        yield from column.to_pylist()


def _number_type(kind: pa.DataType) -> np.dtype[Any] | None:
    """Return the type of the numbers in lists, or in lists of lists; float32 for doubles. None for other types."""
    if not pa.types.is_nested(kind):
        return None
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if pa.types.is_float64(kind):
        return np.dtype(np.float32)
    return np.dtype(kind.to_pandas_dtype()) if pa.types.is_integer(kind) or pa.types.is_floating(kind) else None


def _array(value: list[Any], dtype: np.dtype[Any]) -> Array | list[Any]:
    """Return a list as an array: of objects if it holds nulls. Return the list if its inner lists differ in length."""
    try:
        array = np.asarray(value)
    except ValueError:
        return value
    return array if array.dtype == object else array.astype(dtype)


def _item(row: str, value: Any, kind: Kind | None) -> SourceItem:
    if isinstance(value, np.ndarray):
        return _array_item(row, value, kind)
    if isinstance(value, str) and kind in ("images", "audio"):
        return SourceItem(row, kind, LocalFile(Path(value), value))
    item = value_item(row, value)
    if item.error is None and kind not in (None, item.kind):
        return SourceItem(row, item.kind, None, f"the value holds {item.kind}, expected {kind}")
    return item


def _array_item(row: str, array: Array, kind: Kind | None) -> SourceItem:
    if kind is None or kind == "tensor":
        if array.dtype == object:
            return SourceItem(row, "tensor", None, "the list holds nulls or objects, expected numbers only")
        return SourceItem(row, "tensor", array)
    if kind == "images":
        return _picture_item(row, array)
    return SourceItem(row, kind, None, f"the value is an array, expected {kind}: pass encoded files or paths")


def _picture_item(row: str, pixels: Array) -> SourceItem:
    """Return the item of a decoded picture, as PNG, which keeps its pixels."""
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        shape = f"{pixels.dtype} {list(pixels.shape)}"
        return SourceItem(row, "images", None, f"the picture is {shape}, expected uint8 [height, width, 3]")
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    except (TypeError, ValueError) as error:  # a number of channels that pictures do not have
        return SourceItem(
            row, "images", None, f"the picture is {list(pixels.shape)}, expected 1 to 4 channels: {error}"
        )
    return SourceItem(row, "images", buffer.getvalue())
