"""Ray Serve behind its gRPC proxy: a deployment for each model, batches by `serve.batch`."""

from __future__ import annotations

import signal
import sys

import ray
from bench_models import Model
from ray import serve
from ray.serve.config import gRPCOptions
from works import KEYS

from midrib.v1 import embedding_pb2, tensor_pb2


class Embed:
    """One model. A request is an EmbedRequest, as for the other gRPC servers."""

    def __init__(self, name: str) -> None:
        self._model = Model(name)
        self.name = name

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def _forward(self, requests: list[bytes]) -> list[bytes]:
        return self._model(requests)

    async def Embed(self, request: embedding_pb2.EmbedRequest) -> embedding_pb2.EmbedResponse:  # noqa: N802
        """Compute one request in a batch with others."""
        if request.backbone != KEYS[self.name]:  # while the other model is not up yet, Ray sends its requests here
            raise ValueError(f"got a request for {request.backbone}, this is {KEYS[self.name]}")
        texts = "\n".join(request.input.texts.texts).encode()
        data = texts or request.input.tensor.data
        features = await self._forward(data)
        rows = self._model.count(data)
        return embedding_pb2.EmbedResponse(
            embedding=tensor_pb2.Tensor(
                dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[rows, len(features) // 4 // rows], data=features
            )
        )


def run(port: int, http_port: int, names: list[str]) -> None:
    """Serve until SIGTERM."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(
        http_options={"host": "127.0.0.1", "port": http_port},
        grpc_options=gRPCOptions(
            port=port,
            grpc_servicer_functions=["midrib.v1.embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server"],
        ),
    )
    for name in names:
        deployment = serve.deployment(
            Embed, ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=1024, graceful_shutdown_timeout_s=1
        )
        serve.run(deployment.bind(name), name=name, route_prefix=f"/{name}")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
