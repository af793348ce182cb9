"""Features kept on disk: the second epoch never runs the backbone."""

from __future__ import annotations

import fcntl
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from midrib.task import ClassificationTask, FeatureCache

Pair = tuple[nn.Module, int]
MakeTrainer = Callable[..., Trainer]
ROWS = torch.arange(12.0).reshape(4, 3)


class Counted:
    """Doubles its rows, and notes how many it was given."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        self.rows.append(len(inputs))
        return inputs * 2


def test_the_second_epoch_never_runs_the_backbone(
    remote: tuple[Any, int], loader: DataLoader[Any], trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Three batches in the first of five epochs, and no call after that."""
    task = ClassificationTask(remote, 3, cache=str(tmp_path))
    trainer(max_epochs=5).fit(task, loader, loader)
    assert remote[0].calls == 3


def test_the_next_run_finds_the_features_of_the_last_one(
    remote: tuple[Any, int], loader: DataLoader[Any], tmp_path: Path
) -> None:
    """Features outlive the process: they are in the folder."""
    first = ClassificationTask(remote, 3, cache=str(tmp_path)).embed(loader)
    calls = remote[0].calls
    second = ClassificationTask(remote, 3, cache=str(tmp_path)).embed(loader)
    assert (remote[0].calls, second.tolist()) == (calls, first.tolist())


def test_cached_training_comes_to_the_same_head(
    backbone: Pair, loader: DataLoader[Any], trainer: MakeTrainer, tmp_path: Path
) -> None:
    """A cache changes the time, not the result."""
    heads = []
    for cache in (None, str(tmp_path)):
        torch.manual_seed(0)
        task = ClassificationTask(backbone, 3, cache=cache, learning_rate=0.1)
        trainer(max_epochs=3).fit(task, loader)
        heads.append(task.head.get_parameter("weight").detach())
    torch.testing.assert_close(heads[0], heads[1])


def test_a_backbone_that_trains_is_never_cached(
    local: Pair, loader: DataLoader[Any], trainer: MakeTrainer, tmp_path: Path
) -> None:
    """It computes other features in each epoch."""
    task = ClassificationTask(local, 3, cache=str(tmp_path), finetuning="no_freeze")
    trainer(max_epochs=2).fit(task, loader)
    assert list(tmp_path.iterdir()) == []


def test_changed_weights_are_another_revision(local: Pair, tmp_path: Path) -> None:
    """Features of the old weights are not taken for the new ones'."""
    task, rows = ClassificationTask(local, 3, cache=str(tmp_path)), torch.randn(4, 8)
    before = task.embed(rows)
    with torch.no_grad():
        next(local[0].parameters()).add_(1)
    assert abs(task.embed(rows) - before).max() > 0.1


def test_weights_written_through_data_are_another_revision(local: Pair, tmp_path: Path) -> None:
    """Weight averaging writes parameter.data, which torch does not count."""
    task, rows = ClassificationTask(local, 3, cache=str(tmp_path)), torch.randn(4, 8)
    before, revision = task.embed(rows), task.revision
    next(local[0].parameters()).data.add_(1)
    assert task.revision != revision
    assert abs(task.embed(rows) - before).max() > 0.1


def test_autocast_has_features_of_its_own(local: Pair, tmp_path: Path) -> None:
    """Features that bfloat16 computed are not returned for float32."""
    task, rows = ClassificationTask(local, 3, cache=str(tmp_path)), torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = task.features(rows)
    assert (rounded.dtype, task.features(rows).dtype) == (torch.bfloat16, torch.float32)


def test_only_new_rows_are_computed(tmp_path: Path) -> None:
    """A row is identified by its bytes, at any place of any batch."""
    cache, compute = FeatureCache(tmp_path), Counted()
    cache.features("rev", ROWS[:2], compute)
    mixed = cache.features("rev", ROWS[[3, 1, 0, 3]], compute)
    assert (mixed.tolist(), compute.rows) == ((ROWS[[3, 1, 0, 3]] * 2).tolist(), [2, 1])
    assert (cache.hits, cache.misses) == (3, 3)


@settings(max_examples=30)
@given(batches=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), max_size=8), shard_rows=st.integers(1, 9))
def test_a_cache_returns_the_backbones_rows(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], shard_rows: int
) -> None:
    """For any batches and any shard size, the rows are those of the backbone, and each is computed once."""
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), shard_rows=shard_rows)
    computed: list[float] = []

    def compute(inputs: Tensor) -> Tensor:
        computed.extend(inputs[:, 0].tolist())
        return inputs * 2

    for batch in batches:
        inputs = torch.tensor(batch, dtype=torch.float32).unsqueeze(1)
        assert torch.equal(cache.features("rev", inputs, compute), inputs * 2)
    assert len(computed) == len(set(computed))


def test_revisions_do_not_mix(tmp_path: Path) -> None:
    """The same input under another revision is new."""
    cache, compute = FeatureCache(tmp_path), Counted()
    cache.features("one", ROWS, compute)
    cache.features("two", ROWS, compute)
    assert compute.rows == [4, 4]


def test_the_padding_of_a_text_is_not_part_of_it(tmp_path: Path) -> None:
    """Token ids in a longer batch are the same text."""
    cache, compute = FeatureCache(tmp_path), Counted()
    cache.features("rev", torch.tensor([[5, 6]]), compute)
    cache.features("rev", torch.tensor([[5, 6, 0, 0]]), compute)
    assert compute.rows == [1]


def test_an_empty_batch_has_no_features(tmp_path: Path) -> None:
    """Zero rows in, zero rows out."""
    assert FeatureCache(tmp_path).features("rev", ROWS[:0], lambda rows: rows).shape == (0, 3)


def test_two_caches_share_a_folder(tmp_path: Path) -> None:
    """One finds the rows that the other has written, even after it looked for them in vain."""
    writer, reader, compute = FeatureCache(tmp_path, shard_rows=1), FeatureCache(tmp_path), Counted()
    reader.features("rev", ROWS[:1], compute)
    writer.features("rev", ROWS[1:], compute)
    reader.features("rev", ROWS[1:], compute)
    assert compute.rows == [1, 3]


def fill(path: str, start: int) -> None:
    cache = FeatureCache(path, shard_rows=3)
    cache.features("rev", torch.arange(float(start), start + 10).unsqueeze(1), lambda rows: rows * 2)
    cache.flush()


def test_processes_share_a_folder(tmp_path: Path) -> None:
    """Two processes write at once, over rows that they have in common; a third finds all of them whole."""
    processes = [
        multiprocessing.get_context("fork").Process(target=fill, args=(str(tmp_path), start)) for start in (0, 5)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    compute = Counted()
    rows = torch.arange(15.0).unsqueeze(1)
    assert torch.equal(FeatureCache(tmp_path).features("rev", rows, compute), rows * 2)
    assert compute.rows == []


def test_a_full_cache_stores_no_more(tmp_path: Path) -> None:
    """The bound holds, the features are right all the same, and it is said once."""
    cache, compute = FeatureCache(tmp_path, max_bytes=1000, shard_rows=8), Counted()
    with pytest.warns(UserWarning, match=r"is full \(max_bytes=1000\): .*raise max_bytes"):
        for start in range(0, 80, 8):
            rows = torch.arange(float(start), start + 8).unsqueeze(1)
            assert torch.equal(cache.features("rev", rows, compute), rows * 2)
    assert 0 < sum(shard.stat().st_size for shard in tmp_path.rglob("*.safetensors")) <= 1000


def test_old_revisions_make_room(tmp_path: Path) -> None:
    """Their shards are removed first, because they are not used."""
    cache = FeatureCache(tmp_path, max_bytes=500, shard_rows=4)
    cache.features("old", ROWS, Counted())
    cache.features("new", ROWS, Counted())
    assert [shard.parent.name for shard in tmp_path.rglob("*.safetensors")] == ["new"]


def test_a_damaged_shard_is_left_out(tmp_path: Path) -> None:
    """It is named, and its rows are computed again."""
    cache = FeatureCache(tmp_path, shard_rows=4)
    cache.features("rev", ROWS, Counted())
    (shard,) = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:40])
    shard.with_name("folder.safetensors").mkdir()  # it cannot be opened at all
    compute = Counted()
    with pytest.warns(UserWarning, match=r"leaves out .*\.safetensors, which cannot be read"):
        FeatureCache(tmp_path).features("rev", ROWS, compute)
    assert compute.rows == [4]


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """The features carry a checksum; a shard that differs is left out."""
    cache = FeatureCache(tmp_path, shard_rows=4)
    cache.features("rev", ROWS, Counted())
    (shard,) = tmp_path.rglob("*.safetensors")
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 0x40
    shard.write_bytes(raw)
    compute = Counted()
    with pytest.warns(UserWarning, match="which is damaged: its checksum differs"):
        FeatureCache(tmp_path).features("rev", ROWS, compute)
    assert compute.rows == [4]


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(tmp_path: Path) -> None:
    """The features are right, and it is said once."""
    (tmp_path / "file").write_text("no folder")
    cache, compute = FeatureCache(tmp_path / "file", shard_rows=1), Counted()
    with pytest.warns(UserWarning, match="cannot be written and stores no more"):
        assert torch.equal(cache.features("rev", ROWS, compute), ROWS * 2)
    assert torch.equal(cache.features("rev", ROWS, compute), ROWS * 2)


def test_drafts_of_killed_processes_leave(tmp_path: Path) -> None:
    """No process holds their lock any more."""
    draft = tmp_path / "rev" / ".killed.safetensors.part"
    draft.parent.mkdir()
    draft.write_bytes(b"half a shard")
    FeatureCache(tmp_path, shard_rows=1).features("rev", ROWS, Counted())
    assert not draft.exists()


def test_other_revisions_stay_if_removing_them_makes_too_little_room(tmp_path: Path) -> None:
    """A shard larger than the whole cache removes nothing."""
    FeatureCache(tmp_path, max_bytes=500, shard_rows=4).features("old", ROWS, Counted())
    large = torch.arange(300.0).reshape(100, 3)
    with pytest.warns(UserWarning, match="is full"):
        FeatureCache(tmp_path, max_bytes=500, shard_rows=100).features("new", large, Counted())
    assert [shard.parent.name for shard in tmp_path.rglob("*.safetensors")] == ["old"]


def test_a_cache_travels_to_other_processes(tmp_path: Path) -> None:
    """A copy holds no rows in memory; it finds them in the folder."""
    cache = FeatureCache(tmp_path)
    cache.features("rev", ROWS, Counted())
    copy, compute = pickle.loads(pickle.dumps(cache)), Counted()
    copy.features("rev", ROWS, compute)
    assert compute.rows == []


@pytest.mark.parametrize("options", [{"max_bytes": 0}, {"shard_rows": 0}])
def test_a_cache_without_room_is_refused(tmp_path: Path, options: dict[str, int]) -> None:
    """The error says that max_bytes and shard_rows must be at least 1."""
    with pytest.raises(ValueError, match="needs max_bytes and shard_rows of at least 1"):
        FeatureCache(tmp_path, **options)


def test_inputs_that_are_always_new_are_noticed(
    local: Pair, dataset: TensorDataset, trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Augmented at random, they fill the disk and never come back."""

    def augmented(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([row + torch.randn(8) for row, _ in rows]), torch.stack([target for _, target in rows])

    task = ClassificationTask(local, 3, cache=str(tmp_path))
    loader = DataLoader(dataset, batch_size=16, collate_fn=augmented)
    with pytest.warns(UserWarning, match="found none of epoch 1's rows: .*at random .*cache=None"):
        trainer(max_epochs=2).fit(task, loader)


def test_a_draft_is_made_again_if_it_goes_unlocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may take it for abandoned: without a second try, the cache stored no more."""
    lock = fcntl.flock
    removed: list[Path] = []

    def removing(file: Any, operation: int) -> None:
        if not removed:
            removed.extend(tmp_path.rglob(".*.part"))
            removed[0].unlink()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removing)
    cache = FeatureCache(tmp_path, shard_rows=4)
    cache.features("rev", ROWS, Counted())
    assert (len(removed), cache.full, len(list(tmp_path.rglob("*.safetensors")))) == (1, False, 1)
