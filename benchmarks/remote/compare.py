"""Remote against local, by turns: calls of a backbone, and steps of training a head over it."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from local import LocalPlan, Ways, trial
from processes import SERVING
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from turns import Contender, paired_ratio, take_turns

from midrib.backbones import load_backbone
from midrib.remote import RemoteBackbone

sys.path.insert(0, str(SERVING))
import bench_models  # noqa: F401 - registers the MLP and the ViT, with the server's own weights

MLP: Final = "benchmark/embedding/mlp"
VIT: Final = "benchmark/embedding/vit-tiny"
EFFICIENTNET: Final = "image/classification/efficientnet-lite0"
IMAGE: Final = (3, 224, 224)
CASES: Final[list[tuple[str, tuple[int, ...], tuple[int, ...]]]] = [
    (MLP, (784,), (1, 16, 64, 256, 1024)),
    (EFFICIENTNET, IMAGE, (1, 8, 32, 128, 1024)),
    (VIT, IMAGE, (1, 8, 32, 128, 1024)),
]
TIMEOUT_S: Final = 600.0
_SERVED_THREADS: Final = 1  # the cores are the server's then
_PAIRS: Final = 3
# By rows: of images, a round of so many takes ten seconds, or a minute and more.
_FEWER_PAIRS: Final = {128: 2, 1024: 1}
_STEPS: Final = 20
_STARTS: Final = 3
_CACHED: Final = "remote, cached"

Times: TypeAlias = dict[str, list[float]]
Batch: TypeAlias = list[Tensor]  # inputs, labels


def batches(address: str, ways: Ways, budget_s: float, most_rows: int) -> Iterator[str]:
    """`backbone(x)`, remote against local."""
    yield "## `backbone(x)`: remote against local\n"
    yield "| backbone | rows | pairs | local ms | locally | remote ms | remote/local | float16 ms | remote rows/s |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, shape, counts in CASES:
        here, url = load_backbone(name).module, f"grpc://{address}/{name}"
        remote, half = (RemoteBackbone(url, timeout=TIMEOUT_S, dtype=dtype) for dtype in (None, "float16"))
        for count in (count for count in counts if count <= most_rows):
            x = torch.randn(count, *shape)
            way = ways.fastest(name, here, x)[0]
            contenders = {
                "local": Contender(way.threads, way.bind(here)),
                "remote": Contender(_SERVED_THREADS, remote),
                "float16": Contender(_SERVED_THREADS, half),
            }
            times = _calls(contenders, x, budget_s)
            yield _batches_row(name, count, way, times)


def _calls(contenders: Mapping[str, Contender[Tensor]], x: Tensor, budget_s: float) -> Times:
    least = _FEWER_PAIRS.get(len(x), _PAIRS)
    with torch.inference_mode():
        return take_turns(contenders, chain([trial(x)], repeat(x)), budget_s=budget_s, least=least)


def _batches_row(name: str, count: int, way: LocalPlan, times: Times) -> str:
    local_s, remote_s, half_s = (statistics.median(times[each]) for each in ("local", "remote", "float16"))
    return (
        f"| {name} | {count} | {len(times['local'])} | {1e3 * local_s:.2f} | {way} | {1e3 * remote_s:.2f} "
        f"| {paired_ratio(times['remote'], times['local']):.2f} | {1e3 * half_s:.2f} | {count / remote_s:,.0f} |"
    )


def training(servers: Callable[[], AbstractContextManager[str]], ways: Ways, budget_s: float) -> Iterator[str]:
    """Steps and epochs of a head over a frozen backbone.

    servers: starts one, and gives its address; each measures for itself how to compute, so there are several.
    """
    yield "\n## A head over a frozen backbone (64 images, batches of 16)\n"
    yield "The steps take turns, each on the same batch; then each trains one epoch by itself, through a DataLoader."
    yield f"Remote is compared with the faster of local's two best ways, on {_STARTS} servers one after the other: each"
    yield "has measured anew how to compute.\n"
    yield "| server | backbone | where | pairs | ms a step | remote/local | s an epoch |"
    yield "|---|---|---|---|---|---|---|"
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(64, *IMAGE), torch.arange(64) % 4), batch_size=16)
    for start in range(1, 1 + _STARTS):
        with servers() as address, tempfile.TemporaryDirectory() as cache:
            for name in (EFFICIENTNET, VIT):
                for line in _steps(name, address, ways, data, budget_s, Path(cache)):
                    yield f"| {start} | {name} | {line}"


def _steps(name: str, address: str, ways: Ways, data: DataLoader[Any], budget_s: float, cache: Path) -> Iterator[str]:
    """The rows of one backbone on one server."""
    here = load_backbone(name).module
    best = ways.fastest(name, here, torch.randn(16, *IMAGE))[:2]
    trainers = _trainers(f"grpc://{address}/{name}", here, best, cache / f"{name.replace('/', '-')}.db")
    _epoch_s(trainers[_CACHED], data)  # which fills the cache
    times = take_turns(trainers, cycle(data), budget_s=budget_s, least=_STEPS)
    local = min((times[f"local ({way})"] for way in best), key=statistics.median)
    for where, spent in times.items():
        yield (
            f"{where} | {len(spent)} | {1e3 * statistics.median(spent):.1f} | {paired_ratio(spent, local):.2f} "
            f"| {_epoch_s(trainers[where], data):.2f} |"
        )


def _trainers(url: str, module: nn.Module, ways: Sequence[LocalPlan], cache: Path) -> dict[str, Contender[Batch]]:
    """Local in each way, remote and cached, a head each."""
    remote, cached = RemoteBackbone(url), RemoteBackbone(url, cache=cache)
    width = remote.num_features
    return {
        **{f"local ({way})": Contender(way.threads, _stepper(way.bind(module), width)) for way in ways},
        "remote": Contender(_SERVED_THREADS, _stepper(remote, width)),
        _CACHED: Contender(_SERVED_THREADS, _stepper(cached, width)),
    }


def _stepper(backbone: Callable[[Tensor], Tensor], width: int) -> Callable[[Batch], None]:
    """What trains a head of its own for one step."""
    head = nn.Linear(width, 4)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)

    def step(batch: Batch) -> None:
        x, y = batch
        with torch.no_grad():
            features = backbone(x)
        loss = nn.functional.cross_entropy(head(features), y)
        loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
        optimizer.step()
        optimizer.zero_grad()

    return step


def _epoch_s(trainer: Contender[Batch], data: DataLoader[Any]) -> float:
    began = time.perf_counter()
    for batch in data:
        trainer.seconds(batch)
    return time.perf_counter() - began
