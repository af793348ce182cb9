"""Triton by pytriton: its gRPC endpoint, its dynamic batcher, a Python function for each model."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from bench_models import Model
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from works import FEATURES, SHAPES


def infer(model: Model) -> Any:
    """The function that Triton calls with a batch."""

    @batch
    def run(**inputs: Any) -> dict[str, Any]:
        if model.name == "minilm":
            return {"features": model.texts([row[0].decode() for row in inputs["input"]])}
        return {"features": model.tensor(inputs["input"])}

    return run


def serve(port: int, http_port: int, names: list[str]) -> None:
    """Serve until SIGTERM."""
    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=port,
        http_address="127.0.0.1",
        http_port=http_port,
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        for name in names:
            kind, shape = (np.bytes_, (1,)) if name == "minilm" else (np.float32, SHAPES[name])
            triton.bind(
                model_name=name,
                infer_func=infer(Model(name)),
                inputs=[Tensor(name="input", dtype=kind, shape=shape)],
                outputs=[Tensor(name="features", dtype=np.float32, shape=(FEATURES[name],))],
                config=ModelConfig(max_batch_size=1024, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
            )
        triton.serve()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
