"""Calls a server by the real tritonclient, in a separate venv: `... ADDRESS ADMIN_ADDRESS IMAGE`.

Prints the answers as one JSON object; a test compares that with Midrib's own answers.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton  # type: ignore[import-not-found] # only in that venv
import tritonclient.grpc.aio as triton_aio  # type: ignore[import-not-found] # only in that venv
from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found] # only in that venv

ROWS = np.array([[1, 2], [3, 4]], np.float32)
TEXTS = ["good morning", "la bonne nuit"]
LINEAR, WORDS, PICTURE = "test/embedding/linear", "text/embedding/words", "image/embedding/picture"
STREAMED = 20


def given(name: str, datatype: str, array: Any) -> list[Any]:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return [tensor]


def embedding(result: Any) -> Any:
    return result.as_numpy("embedding").astype(np.float32).tolist()


def refusal(call: Any, *arguments: Any, **named: Any) -> list[str]:
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return ["", "answered"]


def asked(client: Any) -> dict[str, Any]:
    """The server's description."""
    metadata = client.get_model_metadata(WORDS, as_json=True)
    configuration = client.get_model_config(WORDS, as_json=True)["config"]
    statistics = client.get_inference_statistics(LINEAR, as_json=True)["model_stats"][0]
    return {
        "ready": [client.is_server_live(), client.is_server_ready(), client.is_model_ready(LINEAR)],
        "not ready": client.is_model_ready("nothing"),
        "server": client.get_server_metadata(as_json=True)["name"],
        "inputs": [[entry["name"], entry["datatype"]] for entry in metadata["inputs"]],
        "max_batch_size": configuration["max_batch_size"],
        "counted": int(statistics["inference_count"]) > 0,
        "index": [entry["name"] for entry in client.get_model_repository_index(as_json=True)["models"]],
    }


def inferred(client: Any, image: bytes) -> dict[str, Any]:
    """One call of each kind of input."""
    bfloat16 = {"dtype": "BF16"}
    texts = np.array([[text.encode()] for text in TEXTS], np.object_)
    calls = {
        "FP32": client.infer(LINEAR, given("input", "FP32", ROWS)),
        "FP16": client.infer(LINEAR, given("input", "FP16", ROWS.astype(np.float16)), parameters={"dtype": "FP16"}),
        "BF16": client.infer(LINEAR, given("input", "BF16", ROWS.astype(ml_dtypes.bfloat16)), parameters=bfloat16),
        "INT64": client.infer(WORDS, given("input", "INT64", np.array([[5, 6, 0]], np.int64))),
        "texts": client.infer(WORDS, given("texts", "BYTES", texts)),
        "images": client.infer(PICTURE, given("images", "BYTES", np.array([image], np.object_))),
        "normalised": client.infer(
            LINEAR, given("input", "FP32", ROWS), parameters={"normalize": True, "dimensions": 2}
        ),
        "output": client.infer(
            LINEAR, given("input", "FP32", ROWS), outputs=[triton.InferRequestedOutput("embedding")], request_id="9"
        ),
    }
    return {name: embedding(result) for name, result in calls.items()}


def called_back(client: Any) -> Any:
    """The synchronous client's asynchronous call."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.async_infer(LINEAR, given("input", "FP32", ROWS), lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=10)
    return str(error) if error else embedding(result)


def streamed(client: Any) -> list[Any]:
    """A stream of rows 0, 1, ... with one bad request in the middle."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(STREAMED):
        width = 1 if number == STREAMED // 2 else 2
        client.async_stream_infer(
            LINEAR, given("input", "FP32", np.full((1, width), number, np.float32)), request_id=str(number)
        )
    got = [answers.get(timeout=10) for _ in range(STREAMED)]
    client.stop_stream()
    return [str(error) if error else [result.get_response().id, embedding(result)] for result, error in got]


def administered(client: Any) -> dict[str, Any]:
    """Load, use, unload; files and configurations are never accepted from a client."""
    ready = [client.is_model_ready(LINEAR)]
    client.load_model(LINEAR)
    ready.append(client.is_model_ready(LINEAR))
    used = embedding(client.infer(LINEAR, given("input", "FP32", ROWS)))
    client.unload_model(LINEAR)
    ready.append(client.is_model_ready(LINEAR))
    model = {"file:1/model.pt": b"a pickle"}
    refused = [refusal(client.load_model, LINEAR, config="{}", files=files) for files in (None, model)]
    return {"ready": ready, "used": used, "refused": refused}


async def asynchronously(address: str) -> dict[str, Any]:
    """The asyncio client: calls side by side, and a stream."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(STREAMED):
            row = np.full((1, 2), number, np.float32)
            yield {"model_name": LINEAR, "inputs": given("input", "FP32", row), "request_id": str(number)}

    async with triton_aio.InferenceServerClient(address) as client:
        together = await asyncio.gather(
            *(client.infer(LINEAR, given("input", "FP32", ROWS + number)) for number in range(STREAMED))
        )
        stream = client.stream_infer(requests())
        return {
            "ready": await client.is_server_ready(),
            "together": [embedding(result) for result in together],
            "stream": [str(error) if error else embedding(result) async for result, error in stream],
        }


def main(address: str, admin_address: str, image: Path) -> None:
    with triton.InferenceServerClient(address) as client:
        got = {
            "inferred": inferred(client, image.read_bytes()),
            "asked": asked(client),
            "called back": called_back(client),
            "streamed": streamed(client),
            "unknown model": refusal(client.infer, "linea", given("input", "FP32", ROWS)),
            "wrong shape": refusal(client.infer, LINEAR, given("input", "FP32", ROWS[:, :1])),
            "no admin": refusal(client.load_model, LINEAR),
            "shared memory": refusal(client.get_system_shared_memory_status),
        }
    with triton.InferenceServerClient(admin_address) as client:
        got["administered"] = administered(client)
    got["asynchronously"] = asyncio.run(asynchronously(address))
    sys.stdout.write(json.dumps(got))


main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
