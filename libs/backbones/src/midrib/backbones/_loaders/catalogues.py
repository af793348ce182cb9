"""Load any image model of timm or torchvision by the library's own name."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from midrib.backbones._errors import WeightsError
from midrib.backbones._loaders.checkpoints import read_state, unwrapped
from midrib.backbones._loaders.hub_cache import require_intact
from midrib.backbones._loaders.timm_input import declared_input
from midrib.backbones._loaders.timm_input import timm_input as _timm_input
from midrib.backbones._loaders.timm_weights import every_weight_loaded, is_head
from midrib.backbones._torchvision import import_timm, import_torchvision
from midrib.backbones._weights import empty, load_strictly, quantised, require_fit
from midrib.registry import ContractError, ImageInput

if TYPE_CHECKING:
    from torch import nn

_OVERLAY = "pretrained_cfg_overlay"
_LONGEST_REASON = 300


def timm_models() -> dict[str, dict[str, Any]]:
    """Return timm's names of its models and of their pretrained weights, each with its declarations.

    Those are the input, the width, the licence of the weights, and as aliases the names that timm has given up.
    """
    timm = import_timm()
    old_names: dict[str, list[str]] = {}
    for old, new in timm.models.get_deprecated_models().items():
        old_names.setdefault(str(new), []).append(f"timm/{old}")
    names = sorted({*timm.list_models(), *timm.list_pretrained()})
    return {name: _declared(name) | {"deprecated_aliases": old_names.get(name)} for name in names}


def _declared(name: str) -> dict[str, Any]:
    config = import_timm().models.get_pretrained_cfg(name)
    width = {"num_features": _widths("timm").get(name.partition(".")[0])}
    return width if config is None else width | {"input": declared_input(config), "license": config.license}


@functools.cache
def _widths(library: str) -> dict[str, int]:
    """Return the widths of a library's models, which build-support/catalogue_widths.py has measured."""
    table: dict[str, int] = json.loads(Path(__file__).with_name("widths.json").read_text())[library]
    return table


def load_timm(
    name: str, *, pretrained: bool = True, checkpoint: str | Path | None = None, **options: Any
) -> tuple[nn.Module, int]:
    """Load a timm model without its classifier, pooled as timm pools it: [rows, 3, size, size] to [rows, num_features].

    name: timm's, such as "resnet18.a1_in1k".  pretrained: fetch its weights from the hub; if False, random ones.
    checkpoint: load this file instead, in any format that timm knows for this model, such as DINOv2's or CLIP's own.
    options: timm.create_model's, such as img_size or global_pool.
    Raises WeightsError if the weights cannot be found or one is missing, ContractError if the options make a model
    that is not a backbone or whose preprocessing is not supported.
    """
    options.setdefault("num_classes", 0)
    _require_one_size(options.get("img_size"))
    module = _created(name, pretrained, checkpoint, options)
    width = options["num_classes"] or getattr(module, "head_hidden_size", None) or getattr(module, "num_features", None)
    if not isinstance(width, int):
        raise ContractError(
            f"timm/{name} with {options} has no pooled features: leave out options such as features_only"
        )
    module.input = _timm_input(module, options.get("img_size"))
    module.settings = {"timm": name, **{key: str(value) for key, value in options.items()}}
    # Some families keep a layer between pooling and classifier, so their output is wider than their pooled features.
    return module, width


def _require_one_size(size: object) -> None:
    """Raise ContractError unless img_size is one number, or None."""
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ContractError(f"got img_size={size!r}, expected the height and width in pixels as one number")


class TimmPreset(NamedTuple):
    """A published image tower that timm carries.

    options: arguments for timm that make the tower compute the same as its project's code.
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
    """Load a published image tower with its preprocessing: [rows, 3, image_size, image_size] to [rows, width].

    pretrained: fetch its weights from the hub (or its cache); if False, random ones.  checkpoint: load this file
    instead, in its project's own format or timm's.  image_size: in pixels; the published size by default.
    Raises WeightsError if the weights cannot be found or one is missing.
    """
    options = preset.options | ({} if image_size is None else {"img_size": image_size})
    module, width = load_timm(preset.name, pretrained=pretrained, checkpoint=checkpoint, **options)
    module.input = dataclasses.replace(preset.input, size=image_size or preset.input.size)  # type: ignore[assignment] # nn.Module accepts any attribute
    return module, width


def _created(name: str, pretrained: bool, checkpoint: str | Path | None, options: dict[str, Any]) -> Any:
    """Return timm's model with the requested weights, or with random ones if there are none.

    Raises WeightsError if the weights cannot be fetched or read.
    """
    timm = import_timm()
    if checkpoint is None and not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    overlay = {} if checkpoint is None else {_OVERLAY: {"state_dict": _unwrapped_for(name, checkpoint, options)}}
    source = f"timm/{name}" if checkpoint is None else str(checkpoint)
    try:
        with every_weight_loaded(source, strict=checkpoint is not None):
            model = timm.create_model(name, pretrained=True, **options, **overlay)
        if checkpoint is None:
            require_intact(model.pretrained_cfg.get("hf_hub_id") or "")
    except WeightsError:
        raise
    except Exception as error:
        # The hub's failures come from many libraries; weights of another shape are a RuntimeError.
        raise WeightsError(_unavailable(f"timm/{name}", checkpoint, error)) from error
    return model


def _unwrapped_for(name: str, checkpoint: str | Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's weights, unwrapped for the model of that name. Raises WeightsError if it holds none."""
    import torch

    state = read_state(checkpoint)
    with torch.device("meta"):
        expected = import_timm().create_model(name, pretrained=False, **options).state_dict()
    weights = unwrapped(state, expected.keys(), source=str(checkpoint))
    require_fit(
        f"timm/{name}",
        str(checkpoint),
        {
            "have as other numbers than floats": quantised(expected, weights),
            "have sparse or without values": empty(weights),
        },
    )
    if not weights:
        raise WeightsError(f"{checkpoint} holds no tensors by their names: save module.state_dict() as safetensors")
    return weights


def torchvision_models() -> dict[str, dict[str, Any]]:
    """Return torchvision's classification models whose last layer is a classifier to drop.

    Each has its input and its width.
    """
    models = import_torchvision().models
    # Two models return auxiliary classifications beside the features.
    names = [name for name in models.list_models(module=models) if name not in ("inception_v3", "googlenet")]
    return {
        name: {
            "input": _preset_input(models.get_model_weights(name).DEFAULT.transforms()),
            "num_features": _widths("torchvision").get(name),
        }
        for name in names
    }


def _preset_input(preset: Any) -> ImageInput:
    size = preset.crop_size[0]
    return ImageInput(
        size, tuple(preset.mean), tuple(preset.std), preset.interpolation.value, size / preset.resize_size[0]
    )


def load_torchvision(
    name: str, *, pretrained: bool = True, checkpoint: str | Path | None = None
) -> tuple[nn.Module, int]:
    """Load a torchvision classifier without its last layer: [rows, 3, size, size] to [rows, num_features].

    name: torchvision's, such as "resnet18".  pretrained: fetch torchvision's default weights; if False, random ones.
    checkpoint: load this state dict instead, in torchvision's names; its classifier may have any number of classes.
    Raises WeightsError if the weights cannot be found or do not fit.
    """
    torchvision = import_torchvision()
    weights = torchvision.models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    # Only the vision transformers are built for one image size.
    sized = {"image_size": preset.crop_size[0]} if name.startswith("vit_") else {}
    model = torchvision.models.get_model(name, weights=None, **sized)
    width = _drop_classifier(model)
    if checkpoint is not None:
        _load_features(model, read_state(checkpoint), str(checkpoint))
    elif pretrained:
        _load_features(model, _fetch(name, weights), f"torchvision/{name}")
    model.input = _preset_input(preset)
    model.settings = {"torchvision": name}
    return model, width


def _fetch(name: str, weights: Any) -> dict[str, Any]:
    """Return torchvision's weights [...] by name. Raises WeightsError if they cannot be fetched."""
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:
        raise WeightsError(_unavailable(f"torchvision/{name}", None, error)) from error


def _drop_classifier(model: nn.Module) -> int:
    """Replace the last linear layer, whose path differs by family, with nothing; return its input width."""
    from torch import nn

    layers = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    path, last = layers[-1]
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return int(last.in_features if isinstance(last, nn.Linear) else last.in_channels)


def _load_features(model: nn.Module, state: dict[str, Any], source: str) -> None:
    names = model.state_dict().keys()
    weights = unwrapped(state, names, source=source)
    load_strictly(model, {key: value for key, value in weights.items() if key in names or not is_head(key)}, source)


def _unavailable(name: str, checkpoint: str | Path | None, error: Exception) -> str:
    problem = f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_REASON]}"
    if checkpoint is not None:
        return f"{checkpoint} does not fit {name} ({problem}): give a checkpoint of this architecture"
    return (
        f"the weights of {name} could not be fetched ({problem}): "
        "check the network, or pass checkpoint=PATH, or pretrained=False"
    )
