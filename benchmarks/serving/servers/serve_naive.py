"""A first attempt at a server: grpcio with a thread pool, generated stubs, one forward pass per request."""

from __future__ import annotations

import sys
from concurrent import futures

import grpc
import numpy as np
import torch
from bench_models import Model, threads_for
from works import KEYS

from midrib.v1 import embedding_pb2, embedding_pb2_grpc
from midrib.wire import decode_tensor, encode_tensor


class Service(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Only Embed, with threads that compute each request at once."""

    def __init__(self, names: list[str]) -> None:
        self._models = {KEYS[name]: Model(name) for name in names}

    def Embed(  # noqa: N802 - gRPC names it
        self, request: embedding_pb2.EmbedRequest, context: object  # noqa: ARG002
    ) -> embedding_pb2.EmbedResponse:
        """Compute one request in one forward pass."""
        model = self._models[request.backbone]
        torch.set_num_threads(threads_for(model.name))  # it applies to the calling thread only
        if request.input.WhichOneof("kind") == "texts":
            rows = model.texts(list(request.input.texts.texts))
        else:
            rows = model.tensor(np.asarray(decode_tensor(request.input.tensor), np.float32))
        return embedding_pb2.EmbedResponse(embedding=encode_tensor(rows))


def serve(port: int, names: list[str]) -> None:
    """Serve until the process is ended."""
    size = 64 << 20
    server = grpc.server(
        futures.ThreadPoolExecutor(16),
        options=[("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)],
    )
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(Service(names), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


serve(int(sys.argv[1]), sys.argv[2:])
