"""Typed contents: large ones are converted beside the event loop, with the same result as raw ones."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from midrib.oip.v2.inference_pb2 import InferTensorContents, ModelInferRequest
from midrib.server._oip import contents
from midrib.server._oip.contents import read_input
from midrib.wire import InvalidInputError

COUNT = 3 * 2**14 + 5
NUMBERS = np.arange(COUNT) % 100


def request(field: str, datatype: str, numbers: Any) -> ModelInferRequest:
    typed = InferTensorContents(**{field: numbers})
    tensor = ModelInferRequest.InferInputTensor(
        name="input", datatype=datatype, shape=[1, len(numbers)], contents=typed
    )
    return ModelInferRequest(model_name="any", inputs=[tensor])


@pytest.mark.parametrize(
    ("field", "datatype", "dtype"),
    [
        pytest.param("int_contents", "INT8", np.int8, id="INT8"),
        pytest.param("int_contents", "INT32", np.int32, id="INT32"),
        pytest.param("int64_contents", "INT64", np.int64, id="INT64"),
        pytest.param("uint_contents", "UINT8", np.uint8, id="UINT8"),
        pytest.param("fp32_contents", "FP32", np.float32, id="FP32"),
        pytest.param("fp64_contents", "FP64", np.float64, id="FP64"),
    ],
)
async def test_large_contents_keep_every_element(field: str, datatype: str, dtype: Any) -> None:
    """They are copied in slices, so that no other call waits for them."""
    array: Any = await read_input(request(field, datatype, NUMBERS.tolist()), max_rows=8)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, NUMBERS[None].astype(dtype))


async def test_an_element_that_does_not_fit_is_found_in_any_slice() -> None:
    """The last of many, too."""
    with pytest.raises(InvalidInputError, match="some elements do not fit into INT8"):
        await read_input(request("int_contents", "INT8", [*NUMBERS.tolist(), 1000]), max_rows=8)


async def test_large_contents_are_converted_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop answers others meanwhile."""
    threads = []
    convert = contents._numbers

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return convert(*arguments)

    monkeypatch.setattr(contents, "_numbers", noted)
    await read_input(request("fp32_contents", "FP32", NUMBERS.tolist()), max_rows=8)
    await read_input(request("fp32_contents", "FP32", [1.0, 2.0]), max_rows=8)
    assert [thread is threading.main_thread() for thread in threads] == [False, True]
