"""The limit of serving: the model in a loop without a server; lines of JSON on stdin are its orders."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
from bench_models import Model
from works import payloads

_WARM_UP = 0.2


def answer(model: Model, order: dict[str, Any]) -> dict[str, Any]:
    """Call the model for order["seconds"] after a warm-up; return the times at which each call began and ended.

    With 0 seconds, return the features of the first payload.
    """
    torch.set_num_threads((os.cpu_count() or 1) if order["all_cores"] else 1)
    payload = payloads(model.name, order["rows"])[0]
    call = model.texts if model.name == "minilm" else model.tensor
    if not order["seconds"]:
        return {"features": call(payload).tolist()}
    began: list[float] = []
    ended: list[float] = []
    start = time.monotonic() + _WARM_UP * order["seconds"]
    while not ended or ended[-1] < start + order["seconds"]:
        now = time.monotonic()
        call(payload)
        if now >= start:
            began.append(now)
            ended.append(time.monotonic())
    return {"began": began, "ended": ended}


def main(names: list[str]) -> None:
    """Answer every line of stdin with a line on stdout."""
    models = {name: Model(name) for name in names}
    for line in sys.stdin:
        order = json.loads(line)
        sys.stdout.write(json.dumps(answer(models[order["model"]], order)) + "\n")
        sys.stdout.flush()


main(sys.argv[1:])
