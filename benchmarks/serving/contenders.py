"""The contenders: servers, the commands that start them, and their clients."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import free_port
from works import KEYS

from clients import Caller, HttpCaller, JsonCaller, MidribCaller, OpenAiCaller, StubCaller, TritonCaller

_HERE = Path(__file__).parent
# The environments of the rivals do not contain Midrib: they load the models from the sources.
_LIBRARIES = ("libs/registry/src", "libs/media/src", "libs/backbones/src", "dist/codegen")
_SOURCES = tuple(_HERE.parents[1] / part for part in _LIBRARIES)

CallerMaker = Callable[[str, str, Sequence[Any]], Caller]


@dataclass(frozen=True)
class Contender:
    """One row of the tables: a server with one kind of client.

    kind: "limit", "ours" or "rival".  caller: None for the limits, which have special loads.
    grpc: whether it uses gRPC.  works: the workloads that it takes part in.
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
MIDRIB_GRPCIO, MIDRIB_THREADS = "midrib-grpcio", "midrib-threads"
# The servers of Midrib, with the settings that differ from its defaults, as variables.
OURS: dict[str, dict[str, str]] = {
    MIDRIB: {},
    MIDRIB_GRPCIO: {"MIDRIB_FRONT": "grpcio"},
    MIDRIB_THREADS: {"MIDRIB_WORKERS": "thread"},
}

_SMALL = ("W1", "W2")
_SHORT = (*_SMALL, "W3")
CONTENDERS = (
    Contender(MIDRIB, "ours", "midrib", MidribCaller, grpc=True),
    Contender(ECHO_UNARY, "limit", "echo", works=_SMALL),
    Contender(MIDRIB_STUBS, "ours", "midrib", StubCaller, grpc=True, works=_SMALL),
    Contender("midrib, grpcio front", "ours", MIDRIB_GRPCIO, MidribCaller, grpc=True, works=_SHORT),
    Contender("midrib, grpcio front, plain stubs", "ours", MIDRIB_GRPCIO, StubCaller, grpc=True, works=_SMALL),
    Contender(ECHO_STREAM, "limit", "echo", works=_SMALL),
    Contender("midrib, worker threads", "ours", MIDRIB_THREADS, MidribCaller, grpc=True, works=_SHORT),
    Contender("midrib, worker threads, plain stubs", "ours", MIDRIB_THREADS, StubCaller, grpc=True, works=_SMALL),
    Contender("mosec", "rival", "mosec", HttpCaller),
    Contender(IN_PROCESS_1, "limit", "in_process"),
    Contender("triton", "rival", "triton", TritonCaller, grpc=True),
    Contender(IN_PROCESS_N, "limit", "in_process", works=("W3", "W4", "W5")),
    Contender("naive", "rival", "naive", StubCaller, grpc=True),
    Contender(ECHO_ANSWER, "limit", "echo", works=("W2",)),
    Contender("litserve", "rival", "litserve", JsonCaller),
    Contender("ray", "rival", "ray", StubCaller, grpc=True),
    Contender("infinity", "rival", "infinity", OpenAiCaller, works=("W4",)),
)


def command(server: str, port: int, models: Sequence[str], python: str) -> list[str]:
    """Return the command that starts a server with these models on a port, with that Python."""
    if server in OURS:
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
    """Return the variables of a server: the path of the benchmark, and threads that sleep while they wait."""
    has_midrib = server in {*OURS, "echo", "naive", "in_process"}
    path = os.pathsep.join(map(str, (_HERE,) if has_midrib else (_HERE, *_SOURCES)))
    settings = {"RAY_USAGE_STATS_ENABLED": "0"} if server == "ray" else OURS.get(server, {})
    return {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", **settings}
