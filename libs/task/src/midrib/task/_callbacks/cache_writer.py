"""The callback that writes a task's feature cache."""

from __future__ import annotations

import warnings
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from midrib.task._base import TaskBase
from midrib.task._features.cache import FeatureCache


class FeatureCacheWriter(Callback):
    """Writes a task's cache at the end of each epoch, and warns if the cache finds nothing.

    It also calls the task when a stage begins and ends, so that weights are hashed once a stage and not at every batch.
    """

    def __init__(self, cache: FeatureCache) -> None:
        self._cache = cache
        self._hits_of_epoch = 0
        self._before = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._hits_of_epoch = 0
        _begin(pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        _begin(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        _begin(pl_module)  # weight averaging puts the training weights back

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        _begin(pl_module)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        _begin(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        _end(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: BaseException) -> None:  # noqa: ARG002
        _end(pl_module)

    def on_train_batch_start(self, *_: Any) -> None:
        self._before = self._cache.hits

    def on_train_batch_end(self, *_: Any) -> None:
        self._hits_of_epoch += self._cache.hits - self._before

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Write the features of the epoch; after the second, warn if the cache found none of its rows."""
        self._cache.flush()
        # Otherwise a faster rank computes the features that a slower one is about to write.
        trainer.strategy.barrier("feature cache")
        if trainer.current_epoch == 1 and not self._hits_of_epoch and not self._cache.full and self._cache.misses:
            warnings.warn(
                f"the feature cache {self._cache.path} found none of epoch 1's rows: inputs that are augmented at "
                "random are new every time, so pass cache=None for them",
                stacklevel=2,
            )


def _begin(module: LightningModule) -> None:
    if isinstance(module, TaskBase):
        module.begin_stage()


def _end(module: LightningModule) -> None:
    if isinstance(module, TaskBase):
        module.end_stage()
