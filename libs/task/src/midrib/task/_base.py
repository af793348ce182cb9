"""The backbone of a task: its features, its revision, and which of its layers train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import BaseFinetuning
from torch import Tensor, nn

from midrib.registry import ImageInput, InputSpec, in_words
from midrib.registry._description import html_table
from midrib.task._features.backbone import (
    BackboneRecipe,
    DeferredBackbone,
    OpenedBackbone,
    fingerprint,
    in_floats,
    in_type_of,
    is_remote,
    revision_of,
    state_of,
    takes_pixels,
)
from midrib.task._features.cache import FeatureCache, Inputs
from midrib.task._features.contract import checked_features
from midrib.task._features.preparation import Preparation, Transform
from midrib.task._parts.finetuning import LayerFreezer, Strategy, StrategyLike, parse_strategy
from midrib.task._parts.metrics import StageMetrics
from midrib.task._parts.specs import AnyRegistry

_LAST_EPOCH = 1 << 30


class TaskBase(LightningModule):
    """A LightningModule over a backbone; Task adds the head and its training.

    backbone: the module.  recipe: how it was made.  head: the module that trains on its features.
    cache: the store of a frozen backbone's features, or None.
    unsaved_arguments: the names of the arguments that no checkpoint can hold.
    """

    backbones: ClassVar[AnyRegistry]
    outputs: ClassVar[AnyRegistry]
    finetuning_strategies: ClassVar[AnyRegistry]

    backbone: nn.Module
    recipe: BackboneRecipe
    head: nn.Module
    metrics: StageMetrics
    cache: FeatureCache | None
    backbone_learning_rate: float | None
    unsaved_arguments: list[str]

    _strategy: Strategy
    _train_bn: bool
    _spec: Any
    _freezer: LayerFreezer
    _finetuning_callback: BaseFinetuning | None

    def attach(self, opened: OpenedBackbone) -> None:
        """Replace the backbone.  Raises ValueError if it is remote and the finetuning strategy would train it."""
        if is_remote(opened.module):
            _refuse_to_train_remote(opened.recipe.name, self._strategy, self._train_bn)
        self.backbone = opened.module
        self.recipe = opened.recipe
        self._spec = opened.input
        self._revision: tuple[object, str] | None = None
        self._stage_revision: tuple[object, str] | None = None
        self._stage_is_running = False
        self._freezer = LayerFreezer(self.backbone)
        self.freeze_for(0)

    def set_input(self, spec: InputSpec | None) -> None:
        """Declare the input of a backbone that does not declare it."""
        self._spec = spec or self._spec

    # Features

    def features(self, inputs: Inputs) -> Tensor:
        """Return the backbone's features: [batch, num_features].

        inputs: [batch, ...] as the backbone takes them, in any floating type; pixels [batch, 3, height, width] of
        uint8, which are normalised on its device; or strings, which are tokenised here or by its server.  A frozen
        backbone builds no graph unless the inputs require a gradient.  With a cache, it computes each input once.
        """
        batch = inputs if isinstance(inputs, Tensor) else to_device(self, self.preparation()(inputs))
        if _is_empty(batch):  # many networks cannot reshape an empty batch
            return torch.zeros(0, self.num_features, device=self.device)
        if not is_remote(self.backbone):
            batch = in_type_of(batch, self.backbone)
        if not self.backbone_is_frozen or _requires_gradient(batch):
            features = self._run_backbone(batch)
        elif self.cache is None:
            with torch.no_grad():
                features = self._run_backbone(batch)
        else:
            with torch.no_grad():
                features = self.cache.features(self._cache_key(batch), batch, self._run_backbone)
        return features if isinstance(batch, Tensor) else features.to(self.device)

    def _run_backbone(self, batch: Inputs) -> Tensor:
        """Return the features of a batch; pixels are normalised here, unless a server does it."""
        by_server = is_remote(self.backbone) and takes_pixels(self.backbone)
        if isinstance(batch, Tensor) and batch.dtype == torch.uint8 and not by_server:
            batch = in_type_of(in_floats(batch, self.input), self.backbone)
        features = self.backbone(batch)
        return features if _is_graph_being_made() else checked_features(features, len(batch), self.num_features)

    @property
    def num_features(self) -> int:
        """The width of a row of features, which the backbone declares."""
        return self.recipe.num_features

    @property
    def input(self) -> Any:
        """The InputSpec of the backbone, or None if its registration declares none."""
        return self._spec or getattr(self.backbone, "input", None)

    @property
    def input_if_known(self) -> Any:
        """The same as `input`, but None if a server would have to be asked."""
        return None if isinstance(self.backbone, DeferredBackbone) else self.input

    @property
    def backbone_is_frozen(self) -> bool:
        """Whether no parameter of the backbone trains, as with a remote one."""
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    @property
    def revision(self) -> str:
        """The sha-256 of the function that the backbone computes now.

        A checksum of all weights decides whether to hash them again, so that writes through .data or numpy count too.
        """
        if is_remote(self.backbone):
            return revision_of(self.backbone, self._spec)
        checksum = fingerprint(self.backbone)
        if self._revision is None or self._revision[0] != checksum:
            self._revision = (checksum, revision_of(self.backbone, self._spec))
        return self._revision[1]

    def begin_stage(self) -> None:
        """Hash the weights at the next batch, and then only if torch counts a change, until end_stage()."""
        self._stage_is_running = True
        self._stage_revision = None

    def end_stage(self) -> None:
        """Check the weights at every call from now on."""
        self._stage_is_running = False
        self._stage_revision = None

    def _current_revision(self) -> str:
        if not self._stage_is_running:
            return self.revision
        state = tuple(map(state_of, self.backbone.state_dict().values()))
        if self._stage_revision is None or self._stage_revision[0] != state:
            self._stage_revision = (state, self.revision)
        return self._stage_revision[1]

    def _cache_key(self, inputs: Inputs) -> str:
        if not isinstance(inputs, Tensor):
            return f"{self._current_revision()}-text"
        kind = inputs.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
        return f"{self._current_revision()}-{str(dtype).removeprefix('torch.')}"

    def _repr_html_(self) -> str:
        """Return the parts of the task as a table, for notebooks; a remote backbone is not asked for its input."""
        place = "on its server" if is_remote(self.backbone) else "frozen" if self.backbone_is_frozen else "trains"
        head = sum(parameter.numel() for parameter in self.head.parameters())
        rows = [
            ("backbone", f"{self.recipe.name or type(self.backbone).__name__}, {place}"),
            ("input", in_words(self.input_if_known)),
            ("num_features", self.num_features),
            ("head", f"{type(self.head).__name__}, {head:,} parameters"),
        ]
        return html_table(type(self).__name__, ("part", "value"), rows)

    # Batches

    def prepare(self, items: Any) -> Any:
        """Turn images, texts or clips, or files of them, into a batch of inputs, as the backbone's input declares.

        items: a sequence; arrays of numbers are used as inputs.  Returns [rows, ...], on the CPU; texts for a remote
        backbone stay texts, because its server tokenises them.
        Raises MediaError, with the item's index and file, for an item that cannot be used.
        """
        return replace(self.preparation(), pixels=False)(items)

    def preparation(self, transform: Transform | None = None) -> Preparation:
        """Return `prepare` as an object without weights, whose images are pixels of uint8 if the backbone takes them.

        transform: changes each item before it is prepared.
        """
        tokenizer, spec = getattr(self.backbone, "tokenizer", None), self.input
        pixels = isinstance(spec, ImageInput) and takes_pixels(self.backbone)
        return Preparation(spec, tokenizer, is_remote(self.backbone), transform, pixels)

    def split_batch(self, batch: Any) -> tuple[Any, Any]:
        """Return the inputs and targets of a batch: a pair, or a mapping with "input" and "target".

        Override it for batches of another form.  Raises TypeError for other forms.
        """
        if isinstance(batch, Mapping) and {"input", "target"} <= batch.keys():
            return batch["input"], batch["target"]
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return batch[0], batch[1]
        raise TypeError(
            f"got a batch of type {type(batch).__name__}, expected (inputs, targets) or a mapping with 'input' and "
            "'target': override split_batch for another form"
        )

    # Finetuning

    def set_finetuning(self, strategy: StrategyLike | None = None, *, train_bn: bool | None = None) -> None:
        """Set which layers of the backbone train from now on; None keeps the present setting.

        Raises ValueError for a strategy that would train a remote backbone.
        """
        chosen = self._strategy if strategy is None else parse_strategy(strategy, self.finetuning_strategies)
        norms = self._train_bn if train_bn is None else train_bn
        if is_remote(self.backbone):
            _refuse_to_train_remote(self.recipe.name, chosen, norms)
        self._strategy, self._train_bn = chosen, norms
        if strategy is not None:
            self._finetuning_callback = strategy if isinstance(strategy, BaseFinetuning) else None
        self.freeze_for(0)

    def freeze_for(self, epoch: int) -> bool:
        """Freeze and unfreeze the layers that the strategy names for this epoch.  Returns whether any changed."""
        return self._freezer.train_last(self.backbone, self._strategy(epoch), train_bn=self._train_bn)

    def train(self, mode: bool = True) -> Self:
        """Set train mode; frozen layers stay in eval mode."""
        super().train(mode)
        if mode:
            self._freezer.settle(self.backbone)
        return self


def to_device(task: LightningModule, inputs: Any) -> Any:
    """Move a tensor to the task's device; texts stay as they are."""
    return inputs.to(task.device) if isinstance(inputs, Tensor) else inputs


def _is_empty(inputs: Inputs) -> bool:
    return not _is_graph_being_made() and len(inputs) == 0


def _is_graph_being_made() -> bool:
    """Return whether the pass is compiled or traced; its graph is made for any number of rows."""
    # torch.jit.is_tracing has no types
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None  # noqa: SLF001


def _requires_gradient(inputs: Inputs) -> bool:
    return isinstance(inputs, Tensor) and inputs.requires_grad and torch.is_grad_enabled()


def _refuse_to_train_remote(name: str | None, strategy: Strategy, train_bn: bool) -> None:
    """Raise ValueError for a finetuning that would train a remote backbone."""
    if train_bn or max(map(strategy, (0, _LAST_EPOCH))) > 0:
        raise ValueError(
            f"this finetuning would train the remote backbone {name!r}, which is an immutable function of its server: "
            "use finetuning='freeze' without train_bn, or task.to_local() first"
        )
