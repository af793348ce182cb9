"""Heads on backbones: Task, its kinds, and how the backbone below is frozen, cached and swapped."""

from midrib.task._backbone import BackboneRecipe, RevisionError
from midrib.task._cache import FeatureCache
from midrib.task._checkpoint import CheckpointError
from midrib.task._classification import ClassificationTask
from midrib.task._embedding import EmbeddingTask, available_layers
from midrib.task._finetuning import Finetuning
from midrib.task._outputs import Prediction
from midrib.task._regression import RegressionTask
from midrib.task._task import Task

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
