"""A head trained on a backbone's features."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import BaseFinetuning
from torch import Tensor, nn

from midrib.task._callbacks.cache_writer import FeatureCacheWriter
from midrib.task._callbacks.finetuning import Finetuning, FrozenInEval, finetuning_of, has_lightnings
from midrib.task._callbacks.stage_log import StageLog
from midrib.task._features.backbone import BackboneLike, example_batch, in_floats, in_type_of, open_backbone
from midrib.task._features.cache import FeatureCache
from midrib.task._features.input_errors import explained
from midrib.task._features.layers import UpTo
from midrib.task._parts.finetuning import StrategyLike, parse_strategy
from midrib.task._parts.heads import HeadLike, build_head
from midrib.task._parts.losses import Losses, LossLike
from midrib.task._parts.metrics import MetricsLike, StageMetrics
from midrib.task._parts.optimizers import (
    OptimizerLike,
    build_optimizer,
    check_optimizer,
    checked_rate,
    parameter_groups,
)
from midrib.task._parts.schedulers import LRSchedulerLike, build_lr_scheduler, check_lr_scheduler
from midrib.task._parts.specs import parse
from midrib.task._saving.persistence import Persistent
from midrib.task._tasks import predict
from midrib.task._tasks.outputs import OutputLike, output_of
from midrib.task._tasks.registries import HasRegistries


class Task(HasRegistries, Persistent):
    """A backbone, a head on its features, and how the head is trained.

    backbone: a registered name, a URL, a pair (module, num_features), or a loader that returns one.
    num_outputs: the head's width.  head, optimizer, lr_scheduler: a name, a callable, or (either, kwargs); the
    scheduler also (either, kwargs, lightning_config).  loss_fn: functions of (outputs, targets): one, a list, a mapping
    from names; None for a task that is not trained.  metrics: torchmetrics or functions, likewise.
    learning_rate: None leaves the optimizer's default.  backbone_learning_rate: the one of the backbone, if it trains.
    finetuning: which layers train, see Finetuning; the default trains the head alone, over a local backbone or a
    remote one.  train_bn: batch norms of frozen layers train too.
    output_transform: the default output of predict: a name among available_outputs(), (name, kwargs), or a
    function of a Prediction.  backbone_kwargs: the loader's arguments.
    cache: a folder, or a FeatureCache, that keeps the features of a frozen backbone.
    """

    def __init__(
        self,
        backbone: BackboneLike,
        *,
        num_outputs: int | None = None,
        head: HeadLike = "linear",
        loss_fn: LossLike = None,
        metrics: MetricsLike = None,
        optimizer: OptimizerLike = "adam",
        learning_rate: float | None = None,
        backbone_learning_rate: float | None = None,
        lr_scheduler: LRSchedulerLike | None = None,
        finetuning: StrategyLike = "freeze",
        train_bn: bool = False,
        output_transform: OutputLike = "logits",
        backbone_kwargs: Mapping[str, Any] | None = None,
        cache: str | FeatureCache | None = None,
    ) -> None:
        arguments = self.__dict__.pop("_arguments")
        super().__init__()
        self.keep_arguments(arguments)
        self.learning_rate = checked_rate("learning_rate", learning_rate)
        self.backbone_learning_rate = checked_rate("backbone_learning_rate", backbone_learning_rate)
        parse("output_transform", output_transform, self.outputs)
        self.output_transform = output_transform
        self.cache = FeatureCache(cache) if isinstance(cache, str) else cache
        check_optimizer(optimizer, self.optimizers_registry)
        check_lr_scheduler(lr_scheduler, self.lr_schedulers_registry)
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._strategy = parse_strategy(finetuning, self.finetuning_strategies)
        self._train_bn = train_bn
        self._finetuning_callback = finetuning if isinstance(finetuning, BaseFinetuning) else None
        self.attach(open_backbone(backbone, backbone_kwargs, self.backbones))
        self.head = build_head(head, self.num_features, num_outputs, registry=self.heads)
        self.losses = Losses(loss_fn)
        self.metrics = StageMetrics(metrics)
        self.train()

    def forward(self, inputs: Any) -> Tensor:
        """Return the head's outputs: [batch, num_outputs].  inputs: as in features."""
        logits: Tensor = self.head(in_type_of(self.features(inputs), self.head))
        return logits

    # Training

    def metric_inputs(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the arguments of the metrics: outputs and targets, [rows, ...].

        Override it to turn outputs into probabilities.
        """
        return outputs, targets

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002 (Lightning's signature)
        """Return the summed loss [] of a batch; train_loss and the train metrics are logged at the epoch's end."""
        return self._step("train", batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        """Count a batch for val_loss and the val metrics."""
        self._step("val", batch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        """Count a batch for test_loss and the test metrics."""
        self._step("test", batch, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:  # noqa: ARG002
        """Return the batch's rows of output_transform."""
        return output_of(self, predict.inputs_of(self, batch), self.output_transform)

    def _step(self, stage: str, batch: Any, loader: int = 0) -> Tensor:
        inputs, targets = self.split_batch(batch)
        with explained(self.input_if_known, inputs):
            outputs = self(inputs)
        losses = self.losses(outputs, targets)
        self.metrics.update(stage, losses, *self.metric_inputs(outputs.detach(), targets), loader=loader)
        total: Tensor = losses["loss"]
        return total

    def configure_optimizers(self) -> Any:
        """Return the optimizer over head and backbone, and the scheduler if the task has one."""
        backbone = dict(self.backbone.named_parameters(prefix="backbone"))
        head = [parameter for name, parameter in self.named_parameters() if name not in backbone]
        # A finetuning callback of Lightning's adds the layers that it unfreezes to the optimizer.
        if self._trainer is not None and has_lightnings(self._trainer):
            backbone = {name: parameter for name, parameter in backbone.items() if parameter.requires_grad}
        groups = parameter_groups(head, backbone.values(), self.backbone_learning_rate)
        optimizer = build_optimizer(self._optimizer, groups, self.learning_rate, registry=self.optimizers_registry)
        if self._lr_scheduler is None:
            return optimizer
        scheduler = build_lr_scheduler(
            self._lr_scheduler, optimizer, self._trainer, registry=self.lr_schedulers_registry
        )
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks that log, that freeze unless the Trainer has one, and that write the cache."""
        callbacks: list[Callback] = [StageLog()]
        if has_lightnings(self.trainer):
            callbacks.append(FrozenInEval())
        elif self._finetuning_callback is not None:
            callbacks += [self._finetuning_callback, FrozenInEval()]
        elif finetuning_of(self.trainer) is None:
            callbacks.append(Finetuning())
        return callbacks if self.cache is None else [*callbacks, FeatureCacheWriter(self.cache)]

    def finetune(
        self,
        trainer: Trainer,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        *,
        strategy: StrategyLike | None = None,
        train_bn: bool | None = None,
        **fit_kwargs: Any,
    ) -> None:
        """Call trainer.fit with a finetuning strategy.  fit_kwargs: passed to fit, such as datamodule and ckpt_path.

        Raises ValueError if the Trainer's Finetuning callback has another strategy.
        """
        callback = finetuning_of(trainer)
        if strategy is not None and callback is not None and callback.strategy not in (None, strategy):
            raise ValueError(
                f"finetune got strategy={strategy!r}, and the Trainer's Finetuning callback has "
                f"{callback.strategy!r}: set it in one of them"
            )
        self.set_finetuning(strategy, train_bn=train_bn)
        trainer.fit(self, train_dataloaders, val_dataloaders, **fit_kwargs)

    # Prediction

    def predict(self, data: Any, *, output: OutputLike | None = None, batch_size: int = 32) -> Any:
        """Return one row of output for each item of data, in order.

        data: a list of images, texts, clips or their paths; the path of a folder, whose files are taken in order of
        their paths, or of a table; a tensor or array of inputs; a DataLoader that does not shuffle; a data module.
        output: as output_transform, for this call.
        The result is a tensor [rows, ...], or a list if rows are not numbers.
        Raises MediaError for an item that cannot be used, TypeError for other data.
        """
        return predict.predict(self, data, output or self.output_transform, batch_size)

    def embed(self, data: Any, *, progress: bool = False, batch_size: int = 32) -> npt.NDArray[np.floating[Any]]:
        """Return the features of every item of data, in order: [rows, num_features].  data: as in predict."""
        return predict.embed(self, data, progress=progress, batch_size=batch_size)

    def as_embedder(self, layer: str = "backbone", *, sample: Any = None) -> EmbeddingTask:
        """Return a copy of this task that ends at a layer; training this task does not change it.

        layer: a name among available_layers(task), such as "backbone", "backbone.layer3" or "head.0".  The pass stops
        there.  sample: a batch of inputs [rows, ...], for a layer of a backbone that does not declare its input.
        Raises ValueError for an unknown layer, or if the sample is needed and missing.
        """
        if layer not in available_layers(self):
            raise ValueError(f"got layer {layer!r}, expected one of {available_layers(self)}")
        backbone = copy.deepcopy(self.backbone)
        if layer == "backbone":
            return self._embedder(backbone, self.num_features)
        part, _, inner = layer.partition(".")
        if part == "head":
            cut: nn.Module = UpTo(copy.deepcopy(self.head), inner)
            rows = in_type_of(torch.zeros(1, self.num_features, device=self.device), cut)
            module: nn.Module = nn.Sequential(backbone, cut)
        else:
            cut = module = UpTo(backbone, inner)
            rows = in_floats(example_batch(self.input) if sample is None else sample, self.input)
            rows = in_type_of(rows, backbone).to(self.device)
        with torch.no_grad():
            width = cut.eval()(rows).shape[-1]
        return self._embedder(module, width)

    def _embedder(self, module: nn.Module, width: int) -> EmbeddingTask:
        """Return an embedder over a module that takes this task's inputs."""
        embedder = EmbeddingTask((module, width))
        embedder.set_input(self._spec)
        return embedder


class EmbeddingTask(Task):
    """A backbone without a head: forward, predict and embed all return its features.

    All other arguments are Task's; with a loss_fn and finetuning="no_freeze" the backbone trains.
    """

    def __init__(
        self, backbone: BackboneLike, *, output_transform: OutputLike = "embeddings", **task_kwargs: Any
    ) -> None:
        super().__init__(backbone, head=nn.Identity(), output_transform=output_transform, **task_kwargs)


def available_layers(task: Task) -> list[str]:
    """Return the names of the layers at which an embedder of this task may end."""
    parts = (("backbone", task.backbone), ("head", task.head))
    return [f"{part}.{name}".removesuffix(".") for part, module in parts for name, _ in module.named_modules()]
