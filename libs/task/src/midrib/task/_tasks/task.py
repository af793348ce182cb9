"""A head trained on a backbone's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from midrib.task._features.backbone import BackboneLike, OpenedBackbone, is_remote, open_backbone, revision_of
from midrib.task._features.cache import CacheKeeper, FeatureCache, Inputs
from midrib.task._parts.finetuning import (
    Finetuning,
    LayerFreezer,
    Strategy,
    StrategyLike,
    finetuning_of,
    parse_strategy,
)
from midrib.task._parts.heads import HeadLike, build_head
from midrib.task._parts.losses import Losses, LossLike
from midrib.task._parts.metrics import MetricsLike, StageLog, StageMetrics
from midrib.task._parts.optimizers import OptimizerLike, build_optimizer, parameter_groups
from midrib.task._parts.outputs import OutputLike, output_of
from midrib.task._parts.registries import HasRegistries
from midrib.task._parts.schedulers import LRSchedulerLike, build_lr_scheduler
from midrib.task._saving.persistence import Persistent
from midrib.task._tasks import predict

_LAST_EPOCH = 1 << 30


class Task(HasRegistries, Persistent):
    """A backbone, a head on its features, and how the head is trained.

    backbone: a registered name, a URL, a pair (module, num_features), or a loader that returns one.
    num_outputs: the head's width.  head, optimizer, lr_scheduler: a name, a callable, or (either, kwargs); the
    scheduler also (either, kwargs, lightning_config).  loss_fn: functions of (outputs, targets): one, a list, a mapping
    from names; None for a task that is not trained.  metrics: torchmetrics or functions, likewise.
    learning_rate: None leaves the optimizer's default.  backbone_learning_rate: the backbone's own, where it trains.
    finetuning: which layers train, see Finetuning; the default trains the head alone, over a local backbone or a
    remote one.  train_bn: batch norms of frozen layers train all the same.
    output_transform: what predict gives, unless told otherwise: a name among available_outputs(), (name, kwargs), or a
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
        self.learning_rate = learning_rate
        self.backbone_learning_rate = backbone_learning_rate
        self.output_transform = output_transform
        self.cache = FeatureCache(cache) if isinstance(cache, str) else cache
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._strategy = parse_strategy(finetuning, self.finetuning_strategies)
        self._train_bn = train_bn
        self.attach(open_backbone(backbone, backbone_kwargs, self.backbones))
        self.head = build_head(head, self.num_features, num_outputs, registry=self.heads)
        self.losses = Losses(loss_fn)
        self.metrics = StageMetrics(metrics)
        self.train()

    def attach(self, opened: OpenedBackbone) -> None:
        """Take this backbone from now on.  Raises ValueError if it is remote and the finetuning would train it."""
        if is_remote(opened.module):
            _refuse_to_train_remote(opened.recipe.name, self._strategy, self._train_bn)
        self.backbone = opened.module
        self.recipe = opened.recipe
        self._spec = opened.input
        self._revision: tuple[object, str] | None = None
        self._freezer = LayerFreezer(self.backbone)
        self.freeze_for(0)

    # Features

    def forward(self, inputs: Any) -> Tensor:
        """The head's outputs.  inputs: as in features.  Returns [batch, num_outputs]."""
        logits: Tensor = self.head(self.features(inputs))
        return logits

    def features(self, inputs: Inputs) -> Tensor:
        """The backbone's features: [batch, num_features].

        inputs: [batch, ...] as the backbone takes them, or strings, which are tokenised here or by its server.
        A frozen backbone builds no graph, unless the inputs themselves want a gradient; through the cache, if there is
        one, it sees each input once.
        """
        given = inputs if isinstance(inputs, Tensor) else predict.to_device(self, self.prepare(inputs))
        if not self.backbone_is_frozen or _wants_gradient(given):
            features: Tensor = self.backbone(given)
        elif self.cache is None:
            with torch.no_grad():
                features = self.backbone(given)
        else:
            with torch.no_grad():
                features = self.cache.features(self._cache_key(given), given, self.backbone)
        return features if isinstance(given, Tensor) else features.to(self.device)

    @property
    def num_features(self) -> int:
        """The width of a row of features: the backbone says it."""
        return self.recipe.num_features

    @property
    def input(self) -> Any:
        """The InputSpec of the backbone, or None if its maker does not say what it takes."""
        return self._spec or getattr(self.backbone, "input", None)

    @property
    def backbone_is_frozen(self) -> bool:
        """Whether nothing of the backbone can train, as with a remote one."""
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    @property
    def revision(self) -> str:
        """The sha-256 that names what the backbone computes now; hashed anew only when its weights changed."""
        tensors = self.backbone.state_dict().values()
        state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)  # noqa: SLF001 (torch's only count)
        if self._revision is None or self._revision[0] != state:
            self._revision = (state, revision_of(self.backbone, self._spec))
        return self._revision[1]

    def _cache_key(self, inputs: Inputs) -> str:
        if not isinstance(inputs, Tensor):
            return f"{self.revision}-text"
        kind = inputs.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
        return f"{self.revision}-{str(dtype).removeprefix('torch.')}"

    # Training

    def split_batch(self, batch: Any) -> tuple[Any, Tensor]:
        """The inputs and targets of a batch: a pair, or a mapping with "input" and "target". Override for others."""
        if isinstance(batch, Mapping) and {"input", "target"} <= batch.keys():
            return batch["input"], batch["target"]
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return batch[0], batch[1]
        raise TypeError(
            f"got a batch of type {type(batch).__name__}, expected (inputs, targets) or a mapping with 'input' and "
            "'target': override split_batch for another form"
        )

    def metric_inputs(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What the metrics see: outputs and targets as they are. Override to turn outputs into probabilities."""
        return outputs, targets

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002 (Lightning's signature)
        """The summed loss of a batch; train_loss and the train metrics are logged at the epoch's end."""
        return self._step("train", batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        """Count a batch for val_loss and the val metrics."""
        self._step("val", batch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        """Count a batch for test_loss and the test metrics."""
        self._step("test", batch, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:  # noqa: ARG002
        """The batch's rows, as output_transform has them."""
        return output_of(self, predict.inputs_of(self, batch), self.output_transform)

    def _step(self, stage: str, batch: Any, loader: int = 0) -> Tensor:
        inputs, targets = self.split_batch(batch)
        outputs = self(inputs)
        losses = self.losses(outputs, targets)
        self.metrics.update(stage, losses, *self.metric_inputs(outputs.detach(), targets), loader=loader)
        total: Tensor = losses["loss"]
        return total

    def configure_optimizers(self) -> Any:
        """The optimizer over head and backbone, and the scheduler if there is one."""
        theirs = dict(self.backbone.named_parameters(prefix="backbone"))
        ours = [parameter for name, parameter in self.named_parameters() if name not in theirs]
        groups = parameter_groups(ours, theirs.values(), self.backbone_learning_rate)
        optimizer = build_optimizer(self._optimizer, groups, self.learning_rate, registry=self.optimizers_registry)
        if self._lr_scheduler is None:
            return optimizer
        scheduler = build_lr_scheduler(
            self._lr_scheduler, optimizer, self.trainer, registry=self.lr_schedulers_registry
        )
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    # Finetuning

    def set_finetuning(self, strategy: StrategyLike | None = None, *, train_bn: bool | None = None) -> None:
        """Say which layers of the backbone train from now on; None keeps what was said.

        Raises ValueError for a strategy that would train a remote backbone.
        """
        wanted = self._strategy if strategy is None else parse_strategy(strategy, self.finetuning_strategies)
        norms = self._train_bn if train_bn is None else train_bn
        if is_remote(self.backbone):
            _refuse_to_train_remote(self.recipe.name, wanted, norms)
        self._strategy, self._train_bn = wanted, norms
        self.freeze_for(0)

    def freeze_for(self, epoch: int) -> bool:
        """Freeze and unfreeze as the strategy has it in this epoch.  Returns whether that changed anything."""
        return self._freezer.train_last(self.backbone, self._strategy(epoch), train_bn=self._train_bn)

    def train(self, mode: bool = True) -> Self:
        """Train mode, in which frozen layers stay in eval mode."""
        super().train(mode)
        if mode:
            self._freezer.settle(self.backbone)
        return self

    def configure_callbacks(self) -> list[Callback]:
        """Bring what logs, the Finetuning callback unless the Trainer has one, and what keeps the cache."""
        finetuning = [] if finetuning_of(self.trainer) else [Finetuning()]
        return [StageLog(), *finetuning, *([] if self.cache is None else [CacheKeeper(self.cache)])]

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
        """trainer.fit with a finetuning strategy.  fit_kwargs: the rest of fit's, such as datamodule and ckpt_path.

        Raises ValueError if the Trainer's own Finetuning callback says another strategy.
        """
        callback = finetuning_of(trainer)
        if strategy is not None and callback is not None and callback.strategy not in (None, strategy):
            raise ValueError(
                f"finetune got strategy={strategy!r}, and the Trainer's Finetuning callback says "
                f"{callback.strategy!r}: say it in one place"
            )
        self.set_finetuning(strategy, train_bn=train_bn)
        trainer.fit(self, train_dataloaders, val_dataloaders, **fit_kwargs)

    # Prediction

    def prepare(self, items: Any) -> Any:
        """A batch of inputs out of images, texts or clips, as the backbone's input declares: resized, tokenised, …

        items: a sequence; arrays of numbers are taken as inputs.  Returns [rows, ...], on the CPU; texts for a remote
        backbone stay texts, for its server tokenises them.
        """
        return predict.preparation(self, items)(items)

    def predict(self, data: Any, *, output: OutputLike | None = None, batch_size: int = 32) -> Any:
        """One row of output for each item of data, in order.

        data: a DataLoader that does not shuffle, a tensor or array of inputs, or a list of images or texts.
        output: as output_transform, for this call.
        Returns a tensor [rows, ...], or a list where rows are no numbers.
        """
        return predict.predict(self, data, output or self.output_transform, batch_size)

    def embed(self, data: Any, *, progress: bool = False, batch_size: int = 32) -> npt.NDArray[np.floating[Any]]:
        """The features of every item of data, in order: [rows, num_features].  data: as in predict."""
        return predict.embed(self, data, progress=progress, batch_size=batch_size)

    def as_embedder(self, layer: str = "backbone") -> Task:
        """A copy of this task, as it is now, that ends at a layer, such as "backbone" or "head.0"."""
        from midrib.task._tasks.embedding import EmbeddingTask

        return EmbeddingTask.of(self, layer)


def _wants_gradient(inputs: Inputs) -> bool:
    return isinstance(inputs, Tensor) and inputs.requires_grad and torch.is_grad_enabled()


def _refuse_to_train_remote(name: str | None, strategy: Strategy, train_bn: bool) -> None:
    if train_bn or max(map(strategy, (0, _LAST_EPOCH))) > 0:
        raise ValueError(
            f"this finetuning would train the remote backbone {name!r}, which is an immutable function of its server: "
            "use finetuning='freeze' without train_bn, or task.to_local() first"
        )
