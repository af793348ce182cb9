"""Mistakes in the arguments and the data of a task: each is one sentence, at construction if possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from midrib.backbones import InputKindError
from midrib.task import ClassificationTask, EmbeddingTask, Task


@pytest.fixture()
def task() -> ClassificationTask:
    """A task over rows of four numbers."""
    return ClassificationTask("mlp-128", 2, backbone_kwargs={"num_features": 4})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"num_class": 2}, "unexpected argument 'num_class': did you mean 'num_classes'", id="misspelt"),
        pytest.param(
            {"num_classes": 2, "learning_rat": 1}, "'learning_rat': did you mean 'learning_rate'", id="of Task"
        ),
        pytest.param(
            {"num_classes": 2, "zzz": 1}, "unexpected argument 'zzz': expected one of backbone, num_cl", id="unknown"
        ),
        pytest.param({"num_classes": 2, "learning_rate": "0.1"}, "learning_rate got '0.1' of type str", id="text"),
        pytest.param({"labels": "ab"}, "got labels='ab', expected a list with the name of each class", id="labels"),
        pytest.param({"labels": {"a", "b"}}, r"got labels=\{.*\}, expected a list with the name", id="set"),
        pytest.param({"labels": {0: "a", 1: "b"}}, r"got labels=\{0: 'a'.*, expected a list with the name", id="dict"),
        pytest.param({"labels": [1, 2]}, r"got labels=\[1, 2\], expected a list with the name of each", id="numbers"),
        pytest.param({"labels": iter("ab")}, "got labels=<str_.*>, expected a list with the name of", id="iterator"),
        pytest.param({"num_classes": 2, "backbone_learning_rate": True}, "got True of type bool", id="bool"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    """The error suggests the nearest name, or shows the value that is expected."""
    with pytest.raises(TypeError, match=message):
        ClassificationTask("mlp-128", **arguments, backbone_kwargs={"num_features": 4})


@pytest.mark.parametrize("argument", ["loss_fn", "metrics"])
def test_the_name_of_a_loss_or_metric_is_refused(argument: str) -> None:
    """Losses and metrics are functions; a name is not read letter by letter."""
    options: dict[str, Any] = {argument: "accuracy"}
    with pytest.raises(TypeError, match=f"{argument} has 'str', which is 'accuracy' of type str, expected a"):
        ClassificationTask("mlp-128", 2, backbone_kwargs={"num_features": 4}, **options)


@pytest.mark.parametrize("targets", [torch.tensor([0, 2]), torch.tensor([[0], [1]])], ids=["too-large", "column"])
def test_targets_that_are_not_classes_are_named(task: ClassificationTask, targets: torch.Tensor) -> None:
    """The sentence has the indices and the shapes that cross entropy takes; torch's error is its cause."""
    with pytest.raises(ValueError, match=r"not classes .*, expected indices \[batch\] from 0 to 1, or prob"):
        task.training_step((torch.zeros(2, 4), targets), 0)


def test_a_path_is_no_data_module() -> None:
    """The error names the constructors of data modules."""
    with pytest.raises(TypeError, match=r"got data='textures' of type str, .* ImageData\.from_folder"):
        ClassificationTask.from_data("mlp-128", "textures")  # type: ignore[arg-type] # wrong on purpose


def test_a_label_that_occurs_twice_is_named() -> None:
    """Its second class would never be a target."""
    with pytest.raises(ValueError, match="got 'a' several times in labels: give each class another name"):
        ClassificationTask("mlp-128", labels=["a", "b", "a"], backbone_kwargs={"num_features": 4})


def test_no_labels_are_an_error() -> None:
    """The error names the argument that was passed."""
    with pytest.raises(ValueError, match=r"got labels=\[\], expected a list with the name of each class"):
        ClassificationTask("mlp-128", labels=[], backbone_kwargs={"num_features": 4})


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        pytest.param(torch.tensor([[-1, 1], [1, -1]]), r"of shape \[2, 2\], from -1 to 1", id="minus one and one"),
        pytest.param(torch.tensor([[0, 255], [255, 0]]), r"of shape \[2, 2\], from 0 to 255", id="bytes"),
        pytest.param(torch.full((2, 2), float("nan")), r"of shape \[2, 2\], from nan to nan", id="NaN"),
        pytest.param(torch.tensor([0, 1]), r"of shape \[2\], from 0 to 1", id="indices"),
    ],
)
def test_multi_label_targets_are_between_zero_and_one(targets: torch.Tensor, message: str) -> None:
    """torch's loss takes all values, so that the training would lead nowhere."""
    task = ClassificationTask("mlp-128", 2, multi_label=True, backbone_kwargs={"num_features": 4})
    with pytest.raises(ValueError, match=rf"got multi-label targets {message}, expected zeros and ones \[2, 2\]"):
        task.training_step((torch.zeros(2, 4), targets), 0)


@pytest.mark.parametrize("rate", [-1, float("nan"), float("inf")])
def test_a_learning_rate_is_a_number_of_at_least_0(rate: float) -> None:
    """The error is at construction, not at the first step."""
    with pytest.raises(ValueError, match="learning_rate got .*, expected a number of at least 0, such as 0.001"):
        ClassificationTask("mlp-128", 2, learning_rate=rate, backbone_kwargs={"num_features": 4})


def test_an_output_that_does_not_exist_is_refused_at_construction() -> None:
    """Otherwise only the first prediction would fail, after the training."""
    with pytest.raises(KeyError, match="'probabilitys' is not in .*; did you mean 'probabilities'"):
        ClassificationTask("mlp-128", 2, output_transform="probabilitys", backbone_kwargs={"num_features": 4})


def test_a_subclass_takes_arguments_of_its_own() -> None:
    """Python's error shows that Task's list of names is not its author's."""

    class Mine(Task):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.colour = kwargs.pop("colour")
            super().__init__(*args, **kwargs)

    assert Mine((nn.Linear(4, 3), 3), head=nn.Identity(), colour="red").colour == "red"


@pytest.mark.parametrize("call", ["predict", "embed"])
@pytest.mark.parametrize("rows", [np.zeros((3, 5), np.float32), torch.zeros(3, 2, 4, 4)], ids=["width", "axes"])
def test_rows_of_another_shape_are_named(task: ClassificationTask, call: str, rows: Any) -> None:
    """The sentence has both shapes; torch's error is its cause."""
    with pytest.raises(ValueError, match=r"got inputs of shape \[3, .*expected rows of float32 \[4\].*\[rows, 4\]"):
        getattr(task, call)(rows)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_rows_of_other_numbers_are_named(task: ClassificationTask, kind: torch.dtype) -> None:
    """The error replaces torch's "mat1 and mat2 must have the same dtype"."""
    with pytest.raises(ValueError, match=rf"got inputs of {str(kind)[6:]}, expected float32: convert them"):
        task.predict(torch.zeros(3, 4, dtype=kind))


def test_rows_of_another_shape_are_named_in_training(task: ClassificationTask) -> None:
    """Training raises the same error as predict."""
    with pytest.raises(ValueError, match=r"got inputs of shape \[3, 5\], expected rows of float32 \[4\]"):
        task.training_step((torch.zeros(3, 5), torch.zeros(3, dtype=torch.long)), 0)


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        pytest.param(["a", "b"], InputKindError, "got 'a' of type str, and this backbone takes float32", id="texts"),
        pytest.param([None], InputKindError, "got None of type NoneType, and this backbone takes", id="nothing"),
        pytest.param([[1.0], [1.0, 2.0]], ValueError, "rows of several shapes, and this backbone takes", id="ragged"),
    ],
)
def test_items_that_are_not_numbers_are_named(
    task: ClassificationTask, items: list[Any], error: type[Exception], message: str
) -> None:
    """A backbone of numbers cannot embed texts: the sentence says what to pass."""
    with pytest.raises(error, match=message):
        task.predict(items)


def test_an_error_in_a_network_stays_as_it_is() -> None:
    """Rows of the declared shape are not the reason."""
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        EmbeddingTask((nn.Linear(4, 3), 3)).predict(torch.zeros(2, 5))
