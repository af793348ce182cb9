"""timm's evaluation preprocessing as an input spec."""

from __future__ import annotations

from typing import Any

from midrib.backbones._torchvision import import_timm
from midrib.registry import ContractError, ImageInput

_INTERPOLATIONS = ("bicubic", "bilinear")
_CROP_MODES = ("center", "squash", "border")


def timm_input(module: Any, size: int | None) -> ImageInput:
    """Return the preprocessing that timm's configuration of a model asks for.

    size: height and width in pixels; the configured ones by default.
    Raises ContractError for preprocessing that an ImageInput cannot describe.
    """
    return _input_of(import_timm().data.resolve_data_config({}, model=module), size)


def declared_input(config: Any) -> ImageInput | None:
    """Return the preprocessing of a model that is not built; None if an ImageInput cannot describe it.

    config: timm's PretrainedCfg.
    """
    try:
        return _input_of(import_timm().data.resolve_data_config({}, pretrained_cfg=config.to_dict()), None)
    except ContractError:
        return None


def _input_of(config: dict[str, Any], size: int | None) -> ImageInput:
    """Return the input that timm's configuration declares. Raises ContractError if ImageInput cannot describe it."""
    height, width = config["input_size"][-2:] if size is None else (size, size)
    mode = config["crop_mode"] or "center"
    _require_known("interpolation", config["interpolation"], _INTERPOLATIONS)
    _require_known("crop mode", mode, _CROP_MODES)
    if config["input_size"][0] != 3:
        raise ContractError(f"the model takes {config['input_size'][0]} channels, expected 3: it takes no RGB images")
    return ImageInput(
        height,
        _per_channel("mean", config["mean"]),
        _per_channel("std", config["std"]),
        config["interpolation"],
        config["crop_pct"],
        squash=mode == "squash",
        width=None if width == height else width,
        border=mode == "border",
    )


def _per_channel(setting: str, values: Any) -> tuple[float, float, float]:
    """Return a value for each channel; timm takes a single one for all. Raises ContractError for another number."""
    listed = tuple(values) if isinstance(values, list | tuple) else (values,)
    if len(listed) not in (1, 3):
        raise ContractError(f"the model's {setting} is {values!r}, expected one number or three")
    red, green, blue = listed if len(listed) > 1 else listed * 3
    return red, green, blue


def _require_known(setting: str, value: str, supported: tuple[str, ...]) -> None:
    """Raise ContractError for a value that is not supported."""
    if value not in supported:
        raise ContractError(f"the model's {setting} is {value!r}, supported are {', '.join(supported)}")
