"""Heads on backbones: Task, its kinds, and how the backbone below is frozen, cached and swapped."""

import midrib.task._beside_torchvision  # noqa: F401 (before torchmetrics, which the others import)
from midrib.task._callbacks.finetuning import Finetuning
from midrib.task._data.sources import AudioData, ImageData, TabularData, TextData
from midrib.task._features.backbone import BackboneRecipe, RevisionError
from midrib.task._features.cache import FeatureCache
from midrib.task._features.media import Clip
from midrib.task._saving.checkpoint import CheckpointError
from midrib.task._tasks.classification import ClassificationTask
from midrib.task._tasks.outputs import Prediction
from midrib.task._tasks.regression import RegressionTask
from midrib.task._tasks.task import EmbeddingTask, Task, available_layers

__all__ = [
    "AudioData",
    "BackboneRecipe",
    "CheckpointError",
    "ClassificationTask",
    "Clip",
    "EmbeddingTask",
    "FeatureCache",
    "Finetuning",
    "ImageData",
    "Prediction",
    "RegressionTask",
    "RevisionError",
    "TabularData",
    "Task",
    "TextData",
    "available_layers",
]
