"""Shared by the tests of the HTTP port: one call, and the same call by Midrib's own protocol."""

from __future__ import annotations

import http.client
import json
from typing import Any

import grpc

from midrib.server.testing import RunningServer
from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import Array, decode_tensor

WORDS = "text/embedding/words"
TEXTS = ["good morning", "la bonne nuit"]
JSON = {"Content-Type": "application/json"}


class Answer:
    """The status, headers and JSON of one POST, each on a new connection."""

    def __init__(
        self, address: str | None, body: Any, *, headers: dict[str, str] = JSON, path: str = "/v1/embeddings"
    ) -> None:
        connection = http.client.HTTPConnection(str(address), timeout=60)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, headers)
        response = connection.getresponse()
        self.status, self.headers, self.json = response.status, response.headers, json.loads(response.read())
        connection.close()

    @property
    def error(self) -> tuple[int, str, str | None, str]:
        """The status, type, param and code, as OpenAI's clients read them."""
        error = self.json["error"]
        return self.status, error["type"], error["param"], error["code"]

    @property
    def rows(self) -> list[Any]:
        """The embeddings, which are in order."""
        assert [entry["index"] for entry in self.json["data"]] == list(range(len(self.json["data"])))
        return [entry["embedding"] for entry in self.json["data"]]


def embed_by_grpc(server: RunningServer, message: embedding_pb2.Input, **options: Any) -> Array:
    """Return the embedding [rows, features] that Midrib's own call returns for an input of `words` or `picture`."""
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        name = "picture" if message.HasField("images") else "words"
        request = embedding_pb2.EmbedRequest(backbone=name, input=message, options=embedding_pb2.Options(**options))
        return decode_tensor(stub.Embed(request, timeout=10).embedding)


def texts(*values: str) -> embedding_pb2.Input:
    """Return an input of texts."""
    return embedding_pb2.Input(texts=embedding_pb2.Texts(texts=values))


async def freed(running: RunningServer) -> None:
    """Return once nothing is in flight on a server."""
    quota = running.server.embedder.in_flight
    share = quota.share("tests")
    await share.acquire(quota.room)
    share.release(quota.room)
