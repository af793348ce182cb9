"""The options of a training that LightningCLI reads: every argument of the task and of the Trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentError
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import (  # type: ignore[attr-defined] # it exports nothing
    MisconfigurationException,
)

from midrib.task._command.progress import EpochBars
from midrib.task._data.module import DataModule
from midrib.task._features.backbone import BackboneLike
from midrib.task._tasks.classification import ClassificationTask

# `midrib train` gives these by its own options, or finds them in the data.
_NOT_OPTIONS = {"backbone", "num_classes", "labels", "multi_label", "cache"}


class TrainingCLI(LightningCLI):
    """Read `--model.ARGUMENT`, `--trainer.ARGUMENT`, `--config FILE` and `--print_config`, and build both objects.

    arguments: as on a command line.  defaults: by full name, such as {"trainer.max_epochs": 20}; files and
    arguments override them.
    Raises ValueError for an option that does not exist or whose value does not fit.
    """

    def __init__(self, arguments: Sequence[str], defaults: Mapping[str, Any]) -> None:
        self._defaults = dict(defaults)
        # Lightning's use of jsonargparse is out of date; the warning is not about our users' options.
        os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        try:
            super().__init__(
                ClassificationTask,
                args=list(arguments),
                run=False,
                auto_configure_optimizers=False,
                save_config_callback=None,
                seed_everything_default=False,  # `train` sets the seed, before the data is divided
                parser_kwargs={"exit_on_error": False},
            )
        except ArgumentError as error:
            raise ValueError(f"{' '.join(str(error).split())}; --print_config shows every option") from error

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the Trainer's and the task's arguments. The task is built later, with the classes of the data."""
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.add_class_arguments(ClassificationTask, "model", instantiate=False, skip=set(_NOT_OPTIONS))
        parser.set_defaults(self._defaults)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments only, without Lightning's warning that the program has others."""
        self.config = parser.parse_args(args)

    def instantiate_classes(self) -> None:
        """Build nothing yet: the data is read first, then `build` is called."""

    def build(
        self, backbone: BackboneLike, data: DataModule, *, cache: str, backbone_kwargs: Mapping[str, Any]
    ) -> tuple[ClassificationTask, Trainer]:
        """Return the task for a backbone and the classes of the data, and the Trainer.

        cache: a folder for the features.  backbone_kwargs: further arguments of the loader.
        Raises ValueError if the Trainer refuses its options, and the errors of opening the backbone.
        """
        self.config_init = self.parser.instantiate_classes(self.config)
        arguments = self.config_init.model.as_dict()
        arguments["backbone_kwargs"] = {**(arguments.get("backbone_kwargs") or {}), **backbone_kwargs}
        self.model = ClassificationTask.from_data(backbone, data, cache=cache, **arguments)
        self.datamodule = None
        callbacks = list(self.config_init.trainer.callbacks or [])
        if self.config_init.trainer.enable_progress_bar is not False:
            callbacks.append(EpochBars())
        try:
            self.trainer = self.instantiate_trainer(callbacks=callbacks)
        except MisconfigurationException as error:
            raise ValueError(
                f"the Trainer refuses its options ({error}): check those that begin with --trainer"
            ) from error
        return self.model, self.trainer

    def text(self) -> str:
        """Return the options as YAML, for `--config`."""
        return str(self.parser.dump(self.config))
