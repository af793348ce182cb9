"""Saving a task, loading it, and changing where its backbone runs."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor

from midrib.registry._unknown import check_keywords
from midrib.task._base import TaskBase
from midrib.task._saving import checkpoint as checkpoints
from midrib.task._saving import resume, swap


class Persistent(TaskBase):
    """The methods of a Task that use files and servers."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # __new__ takes any arguments, so help and command lines get the signature of __init__.
        signature = inspect.signature(cls.__init__)
        cls.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined] # inspect reads it

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the arguments of the outermost class, as the caller wrote them, because a checkpoint keeps them.

        Raises TypeError, with the nearest name, for a keyword that no constructor of the class takes.
        """
        check_keywords(cls, kwargs)
        task: Self = super().__new__(cls)
        object.__setattr__(task, "_arguments", checkpoints.caller_arguments(cls, args, kwargs))
        return task

    def keep_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Make hyper-parameters of the arguments that a checkpoint can hold, and remember the names of the others."""
        plain, self.unsaved_arguments = checkpoints.split_plain(arguments)
        self._log_hyperparams = True  # as after save_hyperparameters(): the Trainer's logger gets them
        self._set_hparams(plain)
        self._hparams_initial = copy.deepcopy(self._hparams)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the note with the format and the backbone's recipe and revision."""
        checkpoint[checkpoints.KEY] = checkpoints.record(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another format or remote backbone; accept one from before the backbone moved."""
        checkpoints.check(self, checkpoint)
        resume.move(self, checkpoint)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override] # more than Lightning's takes
        cls,
        checkpoint_path: str | os.PathLike[str],
        map_location: Any = None,
        *,
        strict: bool = True,
        **arguments: Any,
    ) -> Self:
        """Return the task in a Trainer's checkpoint; needs no network, and executes nothing that the file holds.

        arguments: replace the saved ones. Functions and modules must be passed again; backbone= may name another place.
        Raises CheckpointError if the file is damaged or such an argument is missing, RevisionError if the backbone's
        weights or input differ from the saved ones.
        """
        return checkpoints.restore(cls, checkpoints.read(checkpoint_path, map_location), arguments, strict=strict)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write weights, arguments and recipe as one safetensors file."""
        checkpoints.export(self, path)

    @classmethod
    def load_export(cls, path: str | os.PathLike[str], **arguments: Any) -> Self:
        """Return the task in a file that export wrote; see load_from_checkpoint."""
        return checkpoints.restore(cls, checkpoints.read_export(path), arguments, strict=True)

    def to_remote(self, url: str, *, sample: Tensor | None = None, tolerance: float = 1e-3, **kwargs: Any) -> Self:
        """Let a server run the backbone from now on; the trained head stays.  Returns the task.

        sample: a batch [rows, ...] to compare embeddings on; by default example rows of the backbone's input.
        tolerance: the largest difference allowed.  kwargs: for the resolver.
        Raises RevisionError if the server has another revision or gives other embeddings; the task is then unchanged.
        """
        return self._swap(url, kwargs, sample, tolerance)

    def to_local(
        self, backbone: Any = None, *, sample: Tensor | None = None, tolerance: float = 1e-3, **kwargs: Any
    ) -> Self:
        """Run the backbone in this process from now on; see to_remote.

        backbone: a name, a pair or a loader; None takes the name in the remote one's URL.
        sample: a batch [rows, ...] to compare embeddings on.  kwargs: for the loader.
        Raises RevisionError as to_remote does.
        """
        return self._swap(backbone or swap.name_in_url(self.recipe.name or ""), kwargs, sample, tolerance)

    def _swap(self, backbone: Any, kwargs: dict[str, Any], sample: Tensor | None, tolerance: float) -> Self:
        swap.swap(self, backbone, kwargs, sample, tolerance)
        unsaved = [name for name in self.unsaved_arguments if name != "backbone"]
        self.keep_arguments({**self.hparams, "backbone": backbone, "backbone_kwargs": kwargs or None})
        self.unsaved_arguments = sorted({*self.unsaved_arguments, *unsaved})
        return self
