"""Continue a training whose backbone has moved to a server, or back."""

from __future__ import annotations

from typing import Any

from midrib.task._base import TaskBase
from midrib.task._features.backbone import check_revisions
from midrib.task._saving.checkpoint import KEY, CheckpointError

_PREFIX = "backbone."


def move(task: TaskBase, checkpoint: dict[str, Any]) -> None:
    """Change a checkpoint of a local backbone into one of the same backbone on a server, or the reverse.

    The backbone's weights, and their places in the optimizer, are removed from the checkpoint, or added to it.
    Raises RevisionError if they are different backbones, CheckpointError if the backbone has its own learning rate.
    """
    state = checkpoint["state_dict"]
    saved = [name for name in state if name.startswith(_PREFIX)]
    here = {f"{_PREFIX}{name}": value for name, value in task.backbone.state_dict().items()}
    if bool(saved) == bool(here):
        return
    check_revisions(str(task.recipe.name), task.revision, "the checkpoint", checkpoint[KEY]["backbone"]["revision"])
    for name in saved:
        del state[name]
    state |= here
    heads = len(list(task.parameters())) - len(list(task.backbone.parameters()))
    for optimizer in checkpoint.get("optimizer_states", []):
        _replace(optimizer, heads, len(list(task.parameters())), task.backbone_learning_rate)


def _replace(optimizer: dict[str, Any], heads: int, total: int, backbone_rate: float | None) -> None:
    """Change the places of the parameters: the head's are first, and a frozen backbone's have no state.

    Raises CheckpointError if the backbone has, or had, a learning rate.
    """
    groups = optimizer["param_groups"]
    if len(groups) > 1 or backbone_rate is not None:
        raise CheckpointError(
            f"this training had {len(groups)} groups of parameters, and the task has backbone_learning_rate="
            f"{backbone_rate}: moving would add or remove a learning rate for its backbone, so resume it in its "
            "former place, or start a training from load_from_checkpoint(path)"
        )
    groups[0]["params"] = list(range(total))
    optimizer["state"] = {place: state for place, state in optimizer["state"].items() if place < heads}
