"""Whole libraries of image models: timm's and torchvision's, under their own names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from midrib.backbones._errors import WeightsError
from midrib.backbones._torchvision import import_timm, import_torchvision
from midrib.backbones._weights import load_strictly, read_state
from midrib.registry import ImageInput

if TYPE_CHECKING:
    from torch import nn


def timm_names() -> list[str]:
    """Return every timm model, and every set of pretrained weights, by timm's own name."""
    timm = import_timm()
    return sorted({*timm.list_models(), *timm.list_pretrained()})


def load_timm(
    name: str, *, pretrained: bool = True, checkpoint: str | Path | None = None, **options: Any
) -> tuple[nn.Module, int]:
    """A model of timm without its classifier, pooled as timm pools it: [rows, 3, size, size] to [rows, num_features].

    name: timm's, such as "resnet18.a1_in1k".  pretrained: fetch its weights from the hub; if False, random ones.
    checkpoint: load this file instead, in any format that timm knows for this model, such as DINOv2's or CLIP's own.
    options: timm.create_model's, such as img_size or global_pool.
    Raises WeightsError if the weights cannot be had.
    """
    options.setdefault("num_classes", 0)
    overlay = {}
    if checkpoint is not None:
        # Through timm's own pretrained path, which renames what other projects call otherwise.
        overlay = {_OVERLAY: {"state_dict": _published(read_state(checkpoint))}}
    module = _created(name, pretrained, checkpoint, options | overlay)
    module.input = _timm_input(module, options.get("img_size"))
    module.settings = {"timm": name, **{key: str(value) for key, value in options.items()}}
    # Some families keep a layer between their pooling and their classifier, and so answer wider than they pool.
    return module, int(options["num_classes"] or getattr(module, "head_hidden_size", None) or module.num_features)


class TimmPreset(NamedTuple):
    """A published image tower that timm carries.

    options: what timm must be told, to run it as its own project does.
    """

    name: str
    width: int
    input: ImageInput
    options: dict[str, Any]


def load_timm_preset(
    preset: TimmPreset,
    *,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
) -> tuple[nn.Module, int]:
    """A published image tower, with its own preprocessing: [rows, 3, image_size, image_size] to [rows, width].

    pretrained: fetch its weights from the hub (or its cache); if False, random ones.  checkpoint: load this file
    instead, in its project's own format or timm's.  image_size: by default the published one.
    Raises WeightsError if the weights cannot be had.
    """
    options = preset.options | ({} if image_size is None else {"img_size": image_size})
    module, width = load_timm(preset.name, pretrained=pretrained, checkpoint=checkpoint, **options)
    module.input = dataclasses.replace(preset.input, size=image_size or preset.input.size)  # type: ignore[assignment] # a module has what one sets
    return module, width


def _created(name: str, pretrained: bool, checkpoint: str | Path | None, options: dict[str, Any]) -> Any:
    timm = import_timm()
    try:
        return timm.create_model(name, pretrained=pretrained or checkpoint is not None, **options)
    except Exception as error:
        if not pretrained and checkpoint is None:
            raise
        # The hub's failures are of many libraries; a checkpoint that does not fit is a RuntimeError.
        raise WeightsError(_unavailable(f"timm/{name}", checkpoint, error)) from error


def _timm_input(module: Any, size: int | None) -> ImageInput:
    config = import_timm().data.resolve_data_config({}, model=module)
    return ImageInput(
        size or config["input_size"][-1],
        tuple(config["mean"]),
        tuple(config["std"]),
        config["interpolation"],
        config["crop_pct"],
        squash=config["crop_mode"] == "squash",
    )


_OVERLAY = "pretrained_cfg_overlay"


def _published(state: dict[str, Any]) -> dict[str, Any]:
    """Take the weights out of a training's file, where they have company."""
    for key in ("model", "state_dict", "teacher"):
        if isinstance(state.get(key), dict):
            state = state[key]
    return {name.removeprefix("module.").removeprefix("backbone."): value for name, value in state.items()}


def torchvision_names() -> Iterator[str]:
    """Return torchvision's classification models, those whose last layer is a classifier that can be dropped."""
    torchvision = import_torchvision()
    for name in torchvision.models.list_models(module=torchvision.models):
        # These two answer with auxiliary classifiers beside the features.
        if name not in ("inception_v3", "googlenet"):
            yield name


def load_torchvision(
    name: str, *, pretrained: bool = True, checkpoint: str | Path | None = None
) -> tuple[nn.Module, int]:
    """A classification model of torchvision without its last layer: [rows, 3, size, size] to [rows, num_features].

    name: torchvision's, such as "resnet18".  pretrained: fetch torchvision's default weights; if False, random ones.
    checkpoint: load this state dict instead, in torchvision's names; its classifier may be of any width.
    Raises WeightsError if the weights cannot be had.
    """
    torchvision = import_torchvision()
    weights = torchvision.models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    # Only its vision transformers are built for one size of image.
    sized = {"image_size": preset.crop_size[0]} if name.startswith("vit_") else {}
    model = torchvision.models.get_model(name, weights=None, **sized)
    width = _drop_classifier(model)
    if checkpoint is not None:
        _load_features(model, read_state(checkpoint), str(checkpoint))
    elif pretrained:
        _load_features(model, _fetch(name, weights), f"torchvision/{name}")
    model.input = ImageInput(
        preset.crop_size[0],
        tuple(preset.mean),
        tuple(preset.std),
        preset.interpolation.value,
        preset.crop_size[0] / preset.resize_size[0],
    )
    model.settings = {"torchvision": name}
    return model, width


def _fetch(name: str, weights: Any) -> dict[str, Any]:
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:
        raise WeightsError(_unavailable(f"torchvision/{name}", None, error)) from error


def _drop_classifier(model: nn.Module) -> int:
    """Replace the last linear layer, whose place differs by family, with nothing; return the width before it."""
    from torch import nn

    path, last = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][
        -1
    ]
    parent, _, own = path.rpartition(".")
    setattr(model.get_submodule(parent), own, nn.Identity())
    return int(last.in_features if isinstance(last, nn.Linear) else last.in_channels)


def _load_features(model: nn.Module, state: dict[str, Any], source: str) -> None:
    wanted = model.state_dict().keys()
    classifier = {"fc", "classifier", "head", "heads"}
    kept = {key: value for key, value in state.items() if key in wanted or key.split(".")[0] not in classifier}
    load_strictly(model, kept, source)


def _unavailable(name: str, checkpoint: str | Path | None, error: Exception) -> str:
    if checkpoint is not None:
        return f"{checkpoint} does not fit {name}: {error}"
    return (
        f"the weights of {name} could not be fetched ({type(error).__name__}: {error}): "
        "check the network, or pass checkpoint=PATH, or pretrained=False"
    )
