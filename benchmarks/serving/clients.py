"""A client for each server, as light as its protocol allows; most build their requests in advance."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any, Protocol

import grpc
import numpy as np
from http1 import Connection, encode_post
from numpy.typing import NDArray
from works import FEATURES, KEYS

from midrib.oip.v2 import inference_pb2
from midrib.remote import AsyncClient
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import decode_tensor, encode_tensor

_SIZE = 64 << 20
CHANNEL = (("grpc.max_receive_message_length", _SIZE), ("grpc.max_send_message_length", _SIZE))


class Caller(Protocol):
    """Sends prepared payloads to one model of one server."""

    async def call(self, index: int) -> Any:
        """Send payload number index (modulo their number) and wait for its answer."""
        ...

    def features(self, answer: Any) -> NDArray[np.float32]:
        """Return an answer as [rows, features]."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class MidribCaller:
    """Midrib's client, which joins concurrent calls. It takes and returns arrays."""

    def __init__(self, address: str, model: str, payloads: Sequence[Any]) -> None:
        self._client = AsyncClient(address)
        self._name = KEYS[model]
        self._payloads = payloads
        self._text = model == "minilm"

    async def call(self, index: int) -> Any:
        """Call `embed`."""
        payload = self._payloads[index % len(self._payloads)]
        if self._text:
            return await self._client.embed(self._name, texts=payload)
        return await self._client.embed(self._name, payload)

    def features(self, answer: Any) -> NDArray[np.float32]:
        """Return the answer, which is the features."""
        return np.asarray(answer)

    async def close(self) -> None:
        """Close its streams."""
        await self._client.close()


class StubCaller:
    """Generated stubs, one unary call per request, for Midrib, the naive server and Ray Serve."""

    def __init__(self, address: str, model: str, payloads: Sequence[Any]) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL)
        self._embed = embedding_pb2_grpc.EmbeddingServiceStub(self._channel).Embed
        self._requests = [
            embedding_pb2.EmbedRequest(backbone=KEYS[model], input=_input(model, payload)) for payload in payloads
        ]
        self._metadata = (("application", model),)  # Ray Serve routes by it

    async def call(self, index: int) -> Any:
        """Call Embed."""
        return await self._embed(self._requests[index % len(self._requests)], metadata=self._metadata)

    def features(self, answer: Any) -> NDArray[np.float32]:
        """Return the tensor of the answer."""
        return decode_tensor(answer.embedding)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


class TritonCaller:
    """ModelInfer with raw contents, by generated stubs: the same bytes as tritonclient, with less overhead."""

    def __init__(self, address: str, model: str, payloads: Sequence[Any]) -> None:
        self._model = model
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL)
        self._infer = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=inference_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=inference_pb2.ModelInferResponse.FromString,
        )
        self._requests = [self._request(payload) for payload in payloads]

    async def call(self, index: int) -> Any:
        """Call ModelInfer."""
        return await self._infer(self._requests[index % len(self._requests)])

    def features(self, answer: Any) -> NDArray[np.float32]:
        """Return the raw contents of the answer."""
        return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(-1, FEATURES[self._model])

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    def _request(self, payload: Any) -> inference_pb2.ModelInferRequest:
        texts = self._model == "minilm"
        if texts:
            encoded = [text.encode() for text in payload]
            raw = b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
        else:
            raw = payload.tobytes()
        request = inference_pb2.ModelInferRequest(model_name=self._model, raw_input_contents=[raw])
        shape = (len(payload), 1) if texts else payload.shape
        request.inputs.add(name="input", datatype="BYTES" if texts else "FP32", shape=shape)
        request.outputs.add(name="features")
        return request


class HttpCaller:
    """POST over persistent connections, one per concurrent caller: mosec takes raw bytes, LitServe JSON."""

    def __init__(self, address: str, model: str, payloads: Sequence[Any], *, json: bool = False) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._model = model
        self._requests = [_post(f"/{model}", raw_bytes(payload), json=json) for payload in payloads]
        self._idle: list[Connection] = []

    async def call(self, index: int) -> Any:
        """Send a POST."""
        connection = self._idle.pop() if self._idle else await self._connect()
        body = await connection.post(self._requests[index % len(self._requests)])
        self._idle.append(connection)
        return body

    def features(self, answer: Any) -> NDArray[np.float32]:
        """Return the body of the answer."""
        return np.frombuffer(answer, np.float32).reshape(-1, FEATURES[self._model])

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._idle:
            connection.close()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        return connection


class JsonCaller(HttpCaller):
    """The HTTP caller of LitServe, with JSON."""

    def __init__(self, address: str, model: str, payloads: Sequence[Any]) -> None:
        super().__init__(address, model, payloads, json=True)


class OpenAiCaller(HttpCaller):
    """The HTTP caller of infinity: OpenAI's API, with the features as base64."""

    def __init__(self, address: str, model: str, payloads: Sequence[Any]) -> None:
        super().__init__(address, model, ())
        self._requests = [_embeddings_post(model, payload) for payload in payloads]

    def features(self, answer: Any) -> NDArray[np.float32]:
        """Return the embeddings of the answer."""
        embeddings = [base64.b64decode(each["embedding"]) for each in json.loads(answer)["data"]]
        return np.frombuffer(b"".join(embeddings), np.float32).reshape(-1, FEATURES[self._model])


def _embeddings_post(model: str, texts: Sequence[str]) -> bytes:
    body = json.dumps({"model": model, "input": list(texts), "encoding_format": "base64"})
    return encode_post("/embeddings", body.encode(), "application/json")


def raw_bytes(payload: Any) -> bytes:
    """Return a payload in the format of `bench_models.Model`."""
    return "\n".join(payload).encode() if isinstance(payload, list) else bytes(payload.tobytes())


def _input(model: str, payload: Any) -> embedding_pb2.Input:
    if model == "minilm":
        return embedding_pb2.Input(texts=embedding_pb2.Texts(texts=payload))
    return embedding_pb2.Input(tensor=encode_tensor(payload))


def _post(path: str, data: bytes, *, json: bool) -> bytes:
    if not json:
        return encode_post(path, data, "application/octet-stream")
    return encode_post(path, b'{"rows": "' + base64.b64encode(data) + b'"}', "application/json")
