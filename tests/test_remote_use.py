"""Around a remote backbone: the cache, the registry of a server, the doctor, the waiting time of a step."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.backbones import BACKBONES
from midrib.registry import Registry, TensorInput
from midrib.remote import Client, RemoteBackbone, RemoteRegistry, StageTimes, doctor
from midrib.remote.lightning import StallMonitor
from midrib.server.testing import RunningServer, serving
from midrib.wire import MidribError

NAME = "test/numbers/mlp"
WIDTH = 8
REGISTRY = Registry("test")


@REGISTRY(name="mlp", namespace="test/numbers", input=TensorInput((WIDTH,)), num_features=16, license="MIT")
def mlp() -> tuple[nn.Module, int]:
    """The same weights wherever it is loaded."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh()).eval(), 16


@REGISTRY(name="broken", namespace="test/numbers", input=TensorInput((WIDTH,)), num_features=16)
def broken() -> tuple[nn.Module, int]:
    """Weights that cannot be had."""
    raise RuntimeError("no weights")


def test_a_second_epoch_makes_no_calls(server: RunningServer, tmp_path: Path) -> None:
    """With a cache, rows that were embedded once come from the file, equal to the bit."""
    backbone = RemoteBackbone(server.url(NAME), cache=tmp_path / "features.db")
    x = torch.randn(40, WIDTH)
    first, sent = backbone(x), backbone.stall.rows
    again = RemoteBackbone(server.url(NAME), cache=tmp_path / "features.db")
    assert torch.equal(again(x.flip(0)), first.flip(0))
    assert (again.stall.rows - sent, sent) == (0, 40)


def test_an_empty_cached_batch(server: RunningServer, tmp_path: Path) -> None:
    """No rows have the backbone's width, cached or not."""
    backbone = RemoteBackbone(server.url(NAME), cache=tmp_path / "features.db")
    assert backbone(torch.empty(0, WIDTH)).shape == (0, 16)


def test_a_server_is_a_registry(server: RunningServer) -> None:
    """Its backbones are found by name, described without loading, and load as remote ones."""
    remote = RemoteRegistry(server.address)
    assert NAME in remote
    assert remote.describe(NAME).license == "MIT"
    module, num_features = remote.load("mlp", timeout=7.0)
    assert isinstance(module, RemoteBackbone)
    assert (module.timeout, num_features) == (7.0, 16)


def test_a_name_is_loaded_here_and_otherwise_from_the_server(server: RunningServer) -> None:
    """BACKBONES + RemoteRegistry("grpc://...") is searched from left to right; a local name hides the server's."""
    both = BACKBONES + RemoteRegistry(f"grpc://{server.address}")
    assert isinstance(both.load("mlp-128", num_features=4)[0], nn.Sequential)
    assert isinstance(both.load(NAME)[0], RemoteBackbone)
    mine = Registry("mine")
    mine(lambda: (nn.Identity(), 3), name="mlp", namespace="test/numbers")
    assert (mine + RemoteRegistry(server.address)).load(NAME)[1] == 3
    assert len((mine + RemoteRegistry(server.address)).explain(NAME).shadows) == 1


def test_a_servers_registry_lists_and_filters_as_any_other(server: RunningServer) -> None:
    """Keys, length, wildcards and metadata are those of the backbones that are served now."""
    remote = RemoteRegistry(server.address)
    assert (list(remote), len(remote), "mlp-128" in remote) == ([NAME], 1, False)
    assert [entry.num_features for entry in remote.list("test/*", license="MIT")] == [16]
    assert remote.list(namespace="image/embedding") == ()
    with pytest.raises(KeyError, match="'mpl' is not in the registry 'the server at.* did you mean 'mlp'"):
        remote.get("mpl")


def test_a_servers_registry_is_pickled_by_its_address(server: RunningServer) -> None:
    """A worker opens its own connection."""
    again = pickle.loads(pickle.dumps(BACKBONES + RemoteRegistry(server.address)))
    assert NAME in again
    assert isinstance(again.load(NAME)[0], RemoteBackbone)


def test_a_backbone_that_failed_to_load_is_listed_beside_the_others() -> None:
    """It has no input and no width, and says so when it is opened; it does not hide the others."""
    with serving(NAME, registry=REGISTRY, admin=True) as server:
        with pytest.raises(MidribError, match="log explains error"):
            Client(server.address).load("test/numbers/broken")
        remote = RemoteRegistry(server.address)
        assert {entry.name: entry.num_features for entry in remote.list()} == {"broken": None, "mlp": 16}
        with pytest.raises(MidribError, match="it could not be loaded"):
            remote.load("broken")


def test_a_missing_server_matters_only_for_names_that_are_not_local() -> None:
    """A local name resolves without it; another one says that no server answers."""
    both = BACKBONES + RemoteRegistry("grpc://127.0.0.1:9", timeout=5.0)
    assert "mlp-128" in both
    with pytest.raises(ConnectionError, match="no server answers at 127.0.0.1:9"):
        both.get("elsewhere")


def test_the_doctor_passes_a_good_connection(server: RunningServer) -> None:
    """Each check has its verdict, in the order in which they build on each other."""
    verdicts = doctor(server.url(NAME))
    assert [(verdict.check, verdict.ok) for verdict in verdicts] == [
        (check, True)
        for check in (
            *("address", "resolve", "tcp", "tls", "grpc", "token", "health", "backbone", "revision"),
            *("limits", "latency", "bandwidth"),
        )
    ]


@pytest.mark.parametrize(
    ("url", "check", "fix"),
    [
        pytest.param("grpc://127.0.0.1:1", "address", "write grpc://", id="no-name"),
        pytest.param("grpc://127.0.0.1:9/a/b", "tcp", "midrib serve", id="no-server"),
        pytest.param("grpc://no-such-host.invalid:1/a/b", "resolve", "check the name", id="no-host"),
    ],
)
def test_the_doctor_ends_with_the_first_failure(url: str, check: str, fix: str) -> None:
    """The last verdict names the first obstacle, and what to do."""
    last = doctor(url, timeout=1.0)[-1]
    assert (last.check, last.ok) == (check, False)
    assert fix in last.fix


def test_the_doctor_knows_a_wrong_name(server: RunningServer) -> None:
    """The server answers, and has no such backbone."""
    last = doctor(server.url("test/numbers/other"))[-1]
    assert (last.check, last.ok, "midrib list" in last.fix) == ("backbone", False, True)


def test_the_doctor_knows_a_listener_that_is_not_a_server() -> None:
    """Something listens there that does not speak gRPC."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        last = doctor(f"grpc://127.0.0.1:{port}/{NAME}", timeout=1.0)[-1]
    assert (last.check, last.ok, "not be a gRPC server" in last.fix) == ("grpc", False, True)


def test_the_doctor_tells_slow_from_refused() -> None:
    """A healthy server on a CPU may need longer than a check takes for a few megabytes."""

    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            """Return the rows; the doctor's, which are all ones, take until the test ends."""
            if bool((x == 1).all()):
                ended.wait(60)
            return x

    ended, slow = threading.Event(), Registry("test")
    slow(lambda: (Slow(), WIDTH), name="slow", namespace="test/numbers", input=TensorInput((WIDTH,)))
    with serving("test/numbers/slow", registry=slow) as server:
        last = doctor(server.url("test/numbers/slow"), timeout=1.5)[-1]
        ended.set()
    assert (last.check, last.ok) == ("bandwidth", True)
    assert "the server computes slowly" in last.detail


def test_the_doctor_goes_on_if_one_address_answers(server: RunningServer) -> None:
    """Each address has its verdicts; a dead one is reported and left out."""
    verdicts = doctor(f"grpc://127.0.0.1:9,{server.address}/{NAME}")
    assert [verdict.check for verdict in verdicts if not verdict.ok] == ["tcp"]
    assert verdicts[-1].check == "bandwidth"


def test_stall_shows_where_the_time_went(server: RunningServer) -> None:
    """Differences of two snapshots are a step's own."""
    backbone = RemoteBackbone(server.url(NAME))
    before = backbone.stall
    backbone(torch.randn(5, WIDTH))
    spent = backbone.stall - before
    assert (spent.items, spent.rows) == (1, 5)
    assert min(spent.waiting_s, spent.encode_s, spent.wire_s, spent.queue_s, spent.compute_s) >= 0
    assert spent.compute_s > 0
    assert StageTimes(items=3) - StageTimes(items=1) == StageTimes(items=2)


class Training(pl.LightningModule):
    """A head over a backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(16, 1)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss: Tensor = self.head(self.backbone(batch[0])).square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec:FutureWarning")
def test_lightning_logs_the_waiting_times_of_steps(server: RunningServer, tmp_path: Path) -> None:
    """The callback adds up every remote backbone of the module, step by step."""
    trainer = pl.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StallMonitor()],
        default_root_dir=tmp_path,
        accelerator="cpu",
        log_every_n_steps=1,
    )
    data = DataLoader(TensorDataset(torch.randn(8, WIDTH)), batch_size=4)
    training = Training(RemoteBackbone(server.url(NAME)))
    training.twin = RemoteBackbone(server.url(NAME))  # of the same function: its rows are counted once
    trainer.fit(training, data)
    assert trainer.callback_metrics["remote/rows"].item() == 4
    assert trainer.callback_metrics["remote/compute_s"].item() > 0


def test_calls_from_a_running_loop_do_not_need_it(server: RunningServer) -> None:
    """Synchronous calls work although a notebook's loop is running."""

    async def notebook() -> tuple[int, ...]:
        return tuple(RemoteBackbone(server.url(NAME))(torch.zeros(2, WIDTH)).shape)

    assert asyncio.run(notebook()) == (2, 16)
