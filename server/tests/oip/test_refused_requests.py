"""ModelInfer: every request that is refused, with its status and reason."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from midrib.oip.v2 import inference_pb2 as oip
from server.tests.oip.oip_client import (
    ROWS,
    Code,
    Inference,
    Request,
    option,
    raw,
    reason_of,
    tensor,
    texts,
)

PLAIN = raw(ROWS, "FP32")
REGION = Request.InferInputTensor(
    name="input", datatype="FP32", shape=[1, 2], parameters={"shared_memory_region": option(string_param="r")}
)
CLASSES = Request.InferRequestedOutputTensor(name="embedding", parameters={"classification": option(int64_param=3)})
TWO_RAW = Request(model_name="gate", inputs=[tensor("FP32", [1, 2])], raw_input_contents=[b"12345678"] * 2)
# Their product has 434,000 bits: the event loop needs a quarter of a second for it.
LONG_SHAPE = [2**62] * 7000
BOTH = Request(
    model_name="gate", inputs=[tensor("FP32", [1, 2], fp32_contents=[1, 2])], raw_input_contents=[b"12345678"]
)


@pytest.mark.parametrize(
    ("request_", "code", "reason", "words"),
    [
        pytest.param(raw(ROWS, "FP32", model="gat"), Code.NOT_FOUND, "BACKBONE_NOT_FOUND", "did you mean", id="name"),
        pytest.param(
            raw(ROWS, "FP32", model_version="1"),
            Code.FAILED_PRECONDITION,
            "REVISION_MISMATCH",
            "pins 1",
            id="version",
        ),
        pytest.param(
            Request(model_name="gate"), Code.INVALID_ARGUMENT, "INVALID_INPUT", "has 0 inputs.*takes one", id="no input"
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("FP32", [1, 2], name="x")]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "a tensor goes by the name 'input'",
            id="input's name",
        ),
        pytest.param(
            raw(ROWS, "UINT64"), Code.INVALID_ARGUMENT, "INVALID_INPUT", "'UINT64' is not taken", id="datatype"
        ),
        pytest.param(
            raw(ROWS.astype(np.int64), "INT64"),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "int64.*takes float32",
            id="wrong datatype",
        ),
        pytest.param(
            raw(ROWS[:, :1], "FP32"), Code.INVALID_ARGUMENT, "INVALID_INPUT", r"takes \[rows, 2\]", id="shape"
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("FP32", [1, 2])], raw_input_contents=[b"1"]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            r"inputs\[0\].data has 1 bytes.*takes 8",
            id="bytes",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("FP32", [-1, 2])]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "no dimension may be negative",
            id="negative shape",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("BYTES", LONG_SHAPE, name="texts")]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "has 7000 dimensions, at most 8",
            id="dimensions of BYTES",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("UINT64", LONG_SHAPE)]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "has 7000 dimensions, at most 8",
            id="dimensions, before everything else",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("FP16", [1, 2], fp32_contents=[1, 2])]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "FP16 has no place in `contents`",
            id="typed FP16",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("INT8", [1, 2], int_contents=[1, 300])]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "do not fit into INT8",
            id="typed overflow",
        ),
        pytest.param(TWO_RAW, Code.INVALID_ARGUMENT, "INVALID_INPUT", "2 raw contents beside 1 input", id="two raw"),
        pytest.param(BOTH, Code.INVALID_ARGUMENT, "INVALID_INPUT", "once, raw or typed", id="raw and typed"),
        pytest.param(
            texts(b"x", model="gate"), Code.FAILED_PRECONDITION, "WRONG_INPUT_KIND", "got texts", id="media kind"
        ),
        pytest.param(
            texts(b"x", name="input", model="gate"),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "name it 'images' or 'texts'",
            id="BYTES name",
        ),
        pytest.param(
            texts(b"\xff", model="gate"), Code.INVALID_ARGUMENT, "INVALID_INPUT", r"texts\[0\] is not UTF-8", id="UTF-8"
        ),
        pytest.param(
            Request(
                model_name="gate", inputs=[tensor("BYTES", [1], name="texts")], raw_input_contents=[b"\x09\0\0\0ab"]
            ),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "ends within element 0",
            id="BYTES length",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("BYTES", [2], name="texts", bytes_contents=[b"a"])]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "has 1 elements, its shape .* takes 2",
            id="BYTES count",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("BYTES", [1, 2], name="texts")]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            r"take \[rows\] or \[rows, 1\]",
            id="BYTES shape",
        ),
        pytest.param(
            Request(model_name="gate", inputs=[tensor("BYTES", [2000], name="texts")]),
            Code.RESOURCE_EXHAUSTED,
            "LIMIT_EXCEEDED",
            "2000 rows, at most 1024",
            id="BYTES rows",
        ),
        pytest.param(
            raw(ROWS, "FP32", parameters={"normalise": option(bool_param=True)}),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "'normalise' is not known here: there are normalize",
            id="unknown parameter",
        ),
        pytest.param(
            raw(ROWS, "FP32", parameters={"normalize": option(string_param="yes")}),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "is a string_param, expected a bool_param",
            id="parameter's type",
        ),
        pytest.param(
            raw(ROWS, "FP32", parameters={"dtype": option(string_param="float16")}),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "expected one of FP16",
            id="output datatype",
        ),
        pytest.param(
            raw(ROWS, "FP32", outputs=[Request.InferRequestedOutputTensor(name="y")]),
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "no output 'y', only 'embedding'",
            id="output's name",
        ),
        pytest.param(
            raw(ROWS, "FP32", outputs=[CLASSES]), Code.UNIMPLEMENTED, "UNSUPPORTED", "classification", id="classes"
        ),
        pytest.param(
            Request(model_name="gate", inputs=[REGION]),
            Code.UNIMPLEMENTED,
            "UNSUPPORTED",
            "shared memory",
            id="shared memory",
        ),
    ],
)
def test_a_bad_request_is_refused_by_the_table(
    inference: Inference, request_: Any, code: grpc.StatusCode, reason: str, words: str
) -> None:
    """The codes, reasons and details of Midrib's own services."""
    with pytest.raises(grpc.RpcError, match=words) as caught:
        inference.ModelInfer(request_, timeout=10)
    assert (caught.value.code(), reason_of(caught.value)) == (code, reason)


def test_the_timeout_parameter_ends_a_request_that_waits(inference: Inference, gate: Any) -> None:
    """Microseconds, as Triton counts them: a request behind a busy device is dropped before it is computed."""
    busy = inference.ModelInfer.future(raw(np.full((1, 2), 13, np.float32), "FP32"), timeout=20)
    assert gate.passing.wait(10)
    late = inference.ModelInfer.future(raw(ROWS, "FP32", parameters={"timeout": option(int64_param=1)}), timeout=20)
    # The queue is looked at again once the device is free.
    assert inference.ServerLive(oip.ServerLiveRequest(), timeout=10).live
    gate.opened.set()
    assert (late.code(), busy.code()) == (Code.DEADLINE_EXCEEDED, Code.OK)
