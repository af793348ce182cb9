"""Remote against local, interleaved: calls of a backbone, and steps of training a head over it."""

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
from interleaved import Contender, interleaved_times, paired_ratio
from local import LocalPlan, Plans, trial
from processes import SERVING
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

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
_SERVED_THREADS: Final = 1  # the server has the cores then
_PAIRS: Final = 3
# Rounds by the number of rows: of images, a round of 128 takes ten seconds, one of 1024 a minute and more.
_FEWER_PAIRS: Final = {128: 2, 1024: 1}
_STEPS: Final = 20
_STARTS: Final = 3
_CACHED: Final = "remote, cached"

Times: TypeAlias = dict[str, list[float]]
Batch: TypeAlias = list[Tensor]  # inputs, labels


def batches(address: str, plans: Plans, budget_s: float, most_rows: int) -> Iterator[str]:
    """Yield the table of `backbone(x)`, remote against local."""
    yield "## `backbone(x)`: remote against local\n"
    yield "| backbone | rows | pairs | local ms | locally | remote ms | remote/local | float16 ms | remote rows/s |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, shape, counts in CASES:
        here, url = load_backbone(name).module, f"grpc://{address}/{name}"
        remote, half = (RemoteBackbone(url, timeout=TIMEOUT_S, dtype=dtype) for dtype in (None, "float16"))
        for count in (count for count in counts if count <= most_rows):
            x = torch.randn(count, *shape)
            plan = plans.fastest(name, here, x)[0]
            contenders = {
                "local": Contender(plan.threads, plan.bind(here)),
                "remote": Contender(_SERVED_THREADS, remote),
                "float16": Contender(_SERVED_THREADS, half),
            }
            times = _calls(contenders, x, budget_s)
            yield _batches_row(name, count, plan, times)


def _calls(contenders: Mapping[str, Contender[Tensor]], x: Tensor, budget_s: float) -> Times:
    least = _FEWER_PAIRS.get(len(x), _PAIRS)
    with torch.inference_mode():
        return interleaved_times(contenders, chain([trial(x)], repeat(x)), budget_s=budget_s, least=least)


def _batches_row(name: str, count: int, plan: LocalPlan, times: Times) -> str:
    local_s, remote_s, half_s = (statistics.median(times[where]) for where in ("local", "remote", "float16"))
    return (
        f"| {name} | {count} | {len(times['local'])} | {1e3 * local_s:.2f} | {plan} | {1e3 * remote_s:.2f} "
        f"| {paired_ratio(times['remote'], times['local']):.2f} | {1e3 * half_s:.2f} | {count / remote_s:,.0f} |"
    )


def training(servers: Callable[[], AbstractContextManager[str]], plans: Plans, budget_s: float) -> Iterator[str]:
    """Yield the table of steps and epochs of a head over a frozen backbone.

    servers: starts a server and returns its address. There are several, because each measures how to compute.
    """
    yield "\n## A head over a frozen backbone (64 images, batches of 16)\n"
    yield "The steps are interleaved, on the same batches. Then each trains one epoch separately, with a DataLoader."
    yield f"Remote is compared with the faster of the two best local plans, on {_STARTS} servers in sequence, because"
    yield "each measures its own plan.\n"
    yield "| server | backbone | where | pairs | ms a step | remote/local | s an epoch |"
    yield "|---|---|---|---|---|---|---|"
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(64, *IMAGE), torch.arange(64) % 4), batch_size=16)
    for start in range(1, 1 + _STARTS):
        with servers() as address, tempfile.TemporaryDirectory() as cache:
            for name in (EFFICIENTNET, VIT):
                for line in _steps(name, address, plans, data, budget_s, Path(cache)):
                    yield f"| {start} | {name} | {line}"


def _steps(name: str, address: str, plans: Plans, data: DataLoader[Any], budget_s: float, cache: Path) -> Iterator[str]:
    """Yield the rows of one backbone on one server."""
    here = load_backbone(name).module
    best = plans.fastest(name, here, torch.randn(16, *IMAGE))[:2]
    trainers = _trainers(f"grpc://{address}/{name}", here, best, cache / f"{name.replace('/', '-')}.db")
    _epoch_s(trainers[_CACHED], data)  # this fills the cache
    times = interleaved_times(trainers, cycle(data), budget_s=budget_s, least=_STEPS)
    local = min((times[f"local ({plan})"] for plan in best), key=statistics.median)
    for where, spent in times.items():
        yield (
            f"{where} | {len(spent)} | {1e3 * statistics.median(spent):.1f} | {paired_ratio(spent, local):.2f} "
            f"| {_epoch_s(trainers[where], data):.2f} |"
        )


def _trainers(url: str, module: nn.Module, plans: Sequence[LocalPlan], cache: Path) -> dict[str, Contender[Batch]]:
    """Return local by each plan, remote, and remote with a cache, each with a head."""
    remote, cached = RemoteBackbone(url), RemoteBackbone(url, cache=cache)
    width = remote.num_features
    return {
        **{f"local ({plan})": Contender(plan.threads, stepper(plan.bind(module), width)) for plan in plans},
        "remote": Contender(_SERVED_THREADS, stepper(remote, width)),
        _CACHED: Contender(_SERVED_THREADS, stepper(cached, width)),
    }


def stepper(backbone: Callable[[Tensor], Tensor], width: int) -> Callable[[Batch], None]:
    """Return a function that trains a new head for one step."""
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
