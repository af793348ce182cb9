"""Averaged weights (EMA, SWA) in checkpoints: they are loaded if the file has them, by name or as a list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from midrib.backbones import WeightsError
from midrib.backbones._loaders.checkpoints import read_state, unwrapped


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))


def zeros(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value * 0 for name, value in state.items()}


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def parameters(state: dict[str, Tensor]) -> list[Tensor]:
    """The averages of a state dict in the order of the parameters, as diffusers and torch-ema keep them."""
    return [value for name, value in state.items() if not name.startswith("1.running") and "batches" not in name]


def loaded(content: Any, path: Path, names: Any) -> dict[str, Any]:
    torch.save(content, path)
    return unwrapped(read_state(path), names, source=str(path))


NAMED: list[Any] = [
    pytest.param(
        lambda state: {
            "model": zeros(state),
            "swa_model": {**prefixed(state, "module."), "n_averaged": torch.tensor(3)},
        },
        id="torch-averaged-model",
    ),
    pytest.param(lambda state: {"model": zeros(state), "ema": {"decay": 0.9, "shadow": state}}, id="shadow-by-name"),
    pytest.param(lambda state: {"net": zeros(state), "net_ema": state}, id="name-of-their-own"),
    pytest.param(
        lambda state: {
            "step": torch.tensor(3),
            **prefixed(zeros(state), "online_model."),
            **prefixed(state, "ema_model."),
        },
        id="ema-pytorch",
    ),
    pytest.param(
        lambda state: {
            "state_dict": prefixed(state, "model."),
            "current_model_state": prefixed(zeros(state), "model."),
            "averaging_state": {"n_averaged": torch.tensor(2)},
        },
        id="lightning-weight-averaging",
    ),
]


@pytest.mark.parametrize("layout", NAMED)
def test_named_averages_are_preferred(tmp_path: Path, layout: Any) -> None:
    """The last weights lie beside them, and are worse."""
    state = network().state_dict()
    got = loaded(layout(state), tmp_path / "w.pth", state.keys())
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], state[name]) for name in state)


def callback(state: dict[str, Tensor], count: int) -> dict[str, Any]:
    """A checkpoint in the layout of Lightning's StochasticWeightAveraging."""
    average = {"n_averaged": count, "average_model_state": prefixed(state, "model.")}
    return {"state_dict": prefixed(zeros(state), "model."), "callbacks": {"StochasticWeightAveraging": average}}


NESTED: list[Any] = [
    pytest.param(lambda state: {"model": zeros(state), "extra_state": {"ema": state, "epoch": 3}}, id="fairseq"),
    pytest.param(lambda state: callback(state, 2), id="lightning-swa"),
    pytest.param(
        lambda state: {
            "state_dict": prefixed(zeros(state), "model."),
            "callbacks": {"EMA": {"ema_state_dict": prefixed(state, "model.")}},
        },
        id="lightning-ema",
    ),
]


@pytest.mark.parametrize("layout", NESTED)
def test_averages_in_another_branch_are_preferred(tmp_path: Path, layout: Any) -> None:
    """Callbacks and trainers keep them apart from the weights."""
    state = nn.Linear(2, 3).state_dict()
    got = loaded(layout(state), tmp_path / "w.pth", state.keys())
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], state[name]) for name in state)


def test_a_callback_that_has_averaged_nothing_yet_is_left_out(tmp_path: Path) -> None:
    """Its copy of the network is the one from before the training."""
    state = nn.Linear(2, 3).state_dict()
    got = loaded(callback(state, 0), tmp_path / "w.pth", state.keys())
    assert not any(value.any() for value in got.values())


def test_averages_without_measured_batch_normalisation_are_an_error(tmp_path: Path) -> None:
    """Lightning measures it at the end of the training, and moves the averages into the state dict then."""
    state = network().state_dict()
    with pytest.raises(WeightsError, match="before the averaged network's batch normalisation was measured: save"):
        loaded(callback(state, 2), tmp_path / "w.pth", state.keys())


SWAPPED: list[Any] = [
    pytest.param(
        lambda state: {
            "meta": {"mmengine_version": "0.10.4"},
            "state_dict": prefixed(state, "backbone."),
            "ema_state_dict": {"steps": torch.tensor(3), **prefixed(zeros(state), "module.backbone.")},
        },
        id="mmengine",
    ),
    pytest.param(
        lambda state: {
            "meta": {"mmcv_version": "1.7.1"},
            "state_dict": {
                **prefixed(state, "backbone."),
                **{f"ema_backbone_{name.replace('.', '_')}": value * 0 for name, value in state.items()},
            },
        },
        id="mmcv",
    ),
]


@pytest.mark.parametrize("layout", SWAPPED)
def test_the_averages_of_openmmlab_are_in_the_state_dict(tmp_path: Path, layout: Any) -> None:
    """Its hooks swap both sets before they save: the one that is called EMA holds the last weights."""
    state = network().state_dict()
    got = loaded(layout(state), tmp_path / "w.pth", state.keys())
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], state[name]) for name in state)


def test_a_module_of_openmmlab_may_be_named_like_an_average(tmp_path: Path) -> None:
    """The names of mmcv's averages have no dots."""
    state = prefixed(nn.Linear(2, 3).state_dict(), "ema_attention.")
    got = loaded({"meta": {"mmcv_version": "1.7.1"}, "state_dict": state}, tmp_path / "w.pth", state.keys())
    assert got.keys() == state.keys()


LISTS: list[Any] = [
    pytest.param(
        lambda state: {"model": zeros(state), "ema": {"decay": 0.9, "shadow_params": parameters(state)}}, id="torch-ema"
    ),
    pytest.param(
        lambda state: {"state_dict": zeros(state), "shadow_params": parameters(state), "decay": 0.9}, id="diffusers"
    ),
    pytest.param(
        lambda state: {
            "state_dict": prefixed(zeros(state), "model."),
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "ema": tuple(parameters(state))}],
        },
        id="nemo",
    ),
]


@pytest.mark.parametrize("layout", LISTS)
def test_a_list_of_averages_replaces_the_parameters_beside_it(tmp_path: Path, layout: Any) -> None:
    """Their number and shapes show whose they are; buffers are not averaged."""
    state = network().state_dict()
    got = loaded(layout(state), tmp_path / "w.pth", state.keys())
    buffers = {name for name in state if "running" in name or "batches" in name}
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], state[name]) for name in state.keys() - buffers)
    assert all(not got[name].any() for name in buffers)


@pytest.mark.parametrize(
    ("choose", "count"),
    [
        pytest.param(lambda values: values[1:], 5, id="some-were-frozen"),
        pytest.param(lambda values: values[::-1], 6, id="another-order"),
        pytest.param(lambda values: [*values, torch.ones(3)], 7, id="of-more-than-the-network"),
    ],
)
def test_a_list_of_averages_that_does_not_fit_is_an_error(tmp_path: Path, choose: Any, count: int) -> None:
    """Neither the last weights in silence, nor averages under guessed names."""
    state = network().state_dict()
    content = {"model": state, "ema": {"shadow_params": choose(parameters(state))}}
    message = f"w.pth holds averaged weights as a list without names, {count} tensors that do not fit the 6 parameters"
    with pytest.raises(WeightsError, match=message):
        loaded(content, tmp_path / "w.pth", state.keys())


def test_a_list_in_the_order_of_an_optimizer_is_an_error(tmp_path: Path) -> None:
    """NeMo keeps the averages in the order of the groups: often those with weight decay, then those without."""
    state = network().state_dict()
    groups = {"state": {}, "param_groups": [{"params": [0, 4]}, {"params": [1, 2, 3, 5]}]}
    optimizer = {"opt": groups, "ema": tuple(parameters(state))}
    with pytest.raises(WeightsError, match="in the order of an optimizer with 2 groups of parameters: save"):
        loaded({"state_dict": state, "optimizer_states": [optimizer]}, tmp_path / "w.pth", state.keys())


def test_averages_under_other_names_are_an_error(tmp_path: Path) -> None:
    """Latent diffusion averages the parameters only, and removes the dots from their names."""
    state = network().state_dict()
    averaged = [name for name in state if not name.startswith(("1.running", "1.num"))]
    joined = {f"model_ema.{name.replace('.', '')}": state[name] for name in averaged}
    content = {"state_dict": {**prefixed(zeros(state), "model."), **joined}}
    with pytest.raises(WeightsError, match="holds averaged weights, such as model_ema.0weight, whose names are not"):
        loaded(content, tmp_path / "w.pth", state.keys())


@pytest.mark.parametrize(
    "beside",
    [
        pytest.param({"ema_losses": [torch.tensor(0.1)]}, id="losses"),
        pytest.param({"ema_losses": [torch.ones(3)]}, id="losses-of-classes"),
        pytest.param({"ema_stats": {"mean": torch.ones(3)}}, id="statistics"),
        pytest.param({"metrics": {"average": {name: torch.tensor(0.1) for name in "abcdefgh"}}}, id="metrics"),
        pytest.param({"ema_optimizer": {"exp_avg": network().state_dict()}}, id="optimizer"),
    ],
)
def test_other_averages_are_not_taken_for_weights(tmp_path: Path, beside: dict[str, Any]) -> None:
    """Averages of other numbers in a checkpoint are ignored."""
    state = network().state_dict()
    got = loaded({"model": state, **beside}, tmp_path / "w.pth", state.keys())
    assert all(torch.equal(got[name], state[name]) for name in state)


@pytest.mark.parametrize("factor", [torch.tensor(0.9), torch.ones(3)], ids=["number", "values"])
def test_the_factor_of_an_average_is_not_taken_for_weights(tmp_path: Path, factor: Tensor) -> None:
    """It is one tensor, and so is half of a network of two."""
    state = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    content = {"state_dict": {**state, "ema_decay": factor}, "callbacks": {"Meter": {"ema_decay": factor}}}
    got = loaded(content, tmp_path / "w.pth", state.keys())
    assert all(torch.equal(got[name], state[name]) for name in state)


def test_a_container_that_holds_itself_is_an_error(tmp_path: Path) -> None:
    """A pickle can say so; a search would not end."""
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="w.pth is not a checkpoint that can be read safely"):
        read_state(tmp_path / "w.pth")


def test_containers_that_hold_each_other_twice_are_an_error(tmp_path: Path) -> None:
    """Forty small lists in a file would be a trillion in a search."""
    content: list[Any] = []
    for _ in range(40):
        content = [content, content]
    torch.save({"model": network().state_dict(), "history": content}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="w.pth is not a checkpoint that can be read safely .ValueError"):
        read_state(tmp_path / "w.pth")
