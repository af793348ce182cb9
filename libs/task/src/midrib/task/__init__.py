"""Heads on backbones: Task, its kinds, and how the backbone below is frozen, cached and swapped."""

from midrib.task._callbacks.finetuning import Finetuning
from midrib.task._features.backbone import BackboneRecipe, RevisionError
from midrib.task._features.cache import FeatureCache
from midrib.task._saving.checkpoint import CheckpointError
from midrib.task._tasks.classification import ClassificationTask
from midrib.task._tasks.outputs import Prediction
from midrib.task._tasks.regression import RegressionTask
from midrib.task._tasks.task import EmbeddingTask, Task, available_layers

__all__ = [
    "BackboneRecipe",
    "CheckpointError",
    "ClassificationTask",
    "EmbeddingTask",
    "FeatureCache",
    "Finetuning",
    "Prediction",
    "RegressionTask",
    "RevisionError",
    "Task",
    "available_layers",
]
