"""The registries of a Task class, and the methods that list them."""

from __future__ import annotations

from typing import Any, ClassVar

from midrib.backbones import BACKBONES
from midrib.task._parts.finetuning import FINETUNING_STRATEGIES
from midrib.task._parts.heads import HEADS
from midrib.task._parts.optimizers import OPTIMIZERS
from midrib.task._parts.schedulers import LR_SCHEDULERS
from midrib.task._parts.specs import AnyRegistry, branch
from midrib.task._tasks.outputs import OUTPUTS

_KINDS = ("backbones", "heads", "outputs", "optimizers_registry", "lr_schedulers_registry", "finetuning_strategies")


class HasRegistries:
    """Names for the parts of a task. Every class has registries, which are searched before those of its parent."""

    backbones: ClassVar[AnyRegistry] = BACKBONES
    heads: ClassVar[AnyRegistry] = HEADS
    outputs: ClassVar[AnyRegistry] = OUTPUTS
    # Not optimizers and lr_schedulers: those are methods of every LightningModule.
    optimizers_registry: ClassVar[AnyRegistry] = OPTIMIZERS
    lr_schedulers_registry: ClassVar[AnyRegistry] = LR_SCHEDULERS
    finetuning_strategies: ClassVar[AnyRegistry] = FINETUNING_STRATEGIES

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for kind in _KINDS:
            if kind not in cls.__dict__:
                setattr(cls, kind, branch(getattr(cls, kind), cls.__name__))

    @classmethod
    def available_backbones(cls, pattern: str | None = None, **metadata: Any) -> list[str]:
        """Return the keys of the backbones that match, such as "*vit*" or namespace="text/embedding".

        catalogues=False leaves out whole libraries, whose names may take seconds to find.
        """
        return [description.key for description in cls.backbones.list(pattern, **metadata)]

    @classmethod
    def get_backbone_details(cls, key: str) -> str:
        """Return the backbone's key, its loader's signature and its summary.  Raises UnknownKeyError."""
        explanation = cls.backbones.explain(key)
        return f"{explanation.key}{explanation.signature}: {explanation.summary}"

    @classmethod
    def available_heads(cls) -> list[str]:
        """Return the names that head=... takes."""
        return cls.heads.available_keys()

    @classmethod
    def available_outputs(cls) -> list[str]:
        """Return the names that output_transform=... and predict(output=...) take."""
        return cls.outputs.available_keys()

    @classmethod
    def available_optimizers(cls) -> list[str]:
        """Return the names that optimizer=... takes, in any case."""
        return cls.optimizers_registry.available_keys()

    @classmethod
    def available_lr_schedulers(cls) -> list[str]:
        """Return the names that lr_scheduler=... takes, in any case."""
        return cls.lr_schedulers_registry.available_keys()

    @classmethod
    def available_finetuning_strategies(cls) -> list[str]:
        """Return the names that finetuning=... and finetune(strategy=...) take."""
        return cls.finetuning_strategies.available_keys()
