"""Who is measured: the servers and how each is started, and the loads that are put on them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import free_port
from works import KEYS

from clients import Caller, HttpCaller, JsonCaller, MidribCaller, StubCaller, TritonCaller

_HERE = Path(__file__).parent
# A rival's environment holds no Midrib: it opens the models from the source.
_SOURCES = tuple(_HERE.parents[1] / part for part in ("libs/registry/src", "libs/backbones/src", "dist/codegen"))

CallerMaker = Callable[[str, str, Sequence[Any]], Caller]


@dataclass(frozen=True)
class Contender:
    """One row of the tables: a server, asked in one way.

    kind: "limit", "ours" or "rival".  server: of SERVERS.  caller: None for the limits, which have loads of their own.
    grpc: whether it speaks gRPC.  works: where it takes part.
    """

    name: str
    kind: str
    server: str
    caller: CallerMaker | None = None
    grpc: bool = False
    works: tuple[str, ...] = ("W1", "W2", "W3", "W4", "W5")


IN_PROCESS_1, IN_PROCESS_N = "in process, 1 thread", "in process, all cores"
ECHO_UNARY, ECHO_STREAM, ECHO_ANSWER = "echo, unary", "echo, stream", "echo, stream, answers of the work's size"
MIDRIB, MIDRIB_STUBS = "midrib", "midrib, plain stubs"

_SMALL = ("W1", "W2")
CONTENDERS = (
    Contender(MIDRIB, "ours", "midrib", MidribCaller, grpc=True),
    Contender(ECHO_UNARY, "limit", "echo", works=_SMALL),
    Contender(MIDRIB_STUBS, "ours", "midrib", StubCaller, grpc=True, works=_SMALL),
    Contender(ECHO_STREAM, "limit", "echo", works=_SMALL),
    Contender("mosec", "rival", "mosec", HttpCaller),
    Contender(IN_PROCESS_1, "limit", "in_process"),
    Contender("triton", "rival", "triton", TritonCaller, grpc=True),
    Contender(IN_PROCESS_N, "limit", "in_process", works=("W3", "W4", "W5")),
    Contender("naive", "rival", "naive", StubCaller, grpc=True),
    Contender(ECHO_ANSWER, "limit", "echo", works=("W2",)),
    Contender("litserve", "rival", "litserve", JsonCaller),
    Contender("ray", "rival", "ray", StubCaller, grpc=True),
)


def command(server: str, port: int, models: Sequence[str], python: str) -> list[str]:
    """How a server is started on a port, holding these models, by that Python."""
    if server == "midrib":
        served = [KEYS[model] for model in models]
        return [
            *(sys.executable, "-m", "midrib.server.cli", "serve", *served),
            *("--port", str(port), "--import", "bench_models", "--json"),
        ]
    script = str(_HERE / "servers" / f"serve_{server}.py")
    if server == "echo":
        return [python, script, str(port)]
    if server == "in_process":
        return [python, script, *models]
    second_port = [str(free_port())] if server in {"ray", "triton"} else []
    return [python, script, str(port), *second_port, *models]


def environment(server: str) -> dict[str, str]:
    """What a server finds: the benchmark's modules, and threads that sleep while they wait, as Midrib's do."""
    own = server in {"midrib", "echo", "naive", "in_process"}
    path = os.pathsep.join(map(str, (_HERE,) if own else (_HERE, *_SOURCES)))
    quiet = {"RAY_USAGE_STATS_ENABLED": "0"} if server == "ray" else {}
    return {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", **quiet}
