"""Open a Task's backbone from each form that it takes, and remember how it was made."""

from __future__ import annotations

import functools
import inspect
import itertools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from midrib.backbones import Backbone, load_backbone
from midrib.backbones._contract import example_rows
from midrib.backbones._pixels.normalize import normalized
from midrib.backbones._revision import canonical_line, tensor_bytes
from midrib.registry import ImageInput, InputSpec, Registry, TensorInput
from midrib.task._parts.specs import AnyRegistry

_ANY_INPUT = TensorInput(())


class RevisionError(ValueError):
    """A backbone differs from the recorded one in its weights, its input or its compute dtype."""


@dataclass(frozen=True)
class BackboneRecipe:
    """How to make a Task's backbone again, in plain values that a checkpoint can hold.

    name: the registered name or the URL; None for a pair or a loader, which must be passed again.
    kwargs: the loader's arguments.  packages: the versions of the libraries that made it.  revision: the sha-256 of
    the function that its weights compute, None if not known.
    """

    name: str | None
    num_features: int
    remote: bool = False
    kwargs: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    revision: str | None = None


Loader: TypeAlias = Callable[..., tuple[nn.Module, int]]


@dataclass(frozen=True)
class OpenedBackbone:
    """An opened backbone.  input: its InputSpec, None if it does not declare one."""

    module: nn.Module
    input: InputSpec | None
    recipe: BackboneRecipe


BackboneLike: TypeAlias = str | tuple[nn.Module, int] | Loader | BackboneRecipe | OpenedBackbone


def is_remote(module: nn.Module) -> bool:
    """Return whether a server runs this backbone, which then cannot be trained here."""
    return bool(getattr(module, "is_remote", False))


def open_backbone(source: BackboneLike, kwargs: Mapping[str, Any] | None, registry: AnyRegistry) -> OpenedBackbone:
    """Open a name, a URL, a (module, num_features) pair, a loader, or the recipe in a checkpoint.

    An opened backbone is returned unchanged.
    Raises UnknownKeyError for an unknown name, TypeError for any other form, and the errors of the loader.
    """
    arguments = dict(kwargs or {})
    if isinstance(source, OpenedBackbone):
        return source
    if isinstance(source, BackboneRecipe):
        return _from_recipe(source, registry)
    if isinstance(source, str):
        return _from_name(source, arguments, registry)
    if isinstance(source, tuple):
        return _from_pair(source, arguments)
    if callable(source) and not isinstance(source, nn.Module):
        scratch = Registry("loaders given to a Task")
        scratch(source, name="given")
        module, width = scratch.load("given", **arguments)
        return _opened(module, None, BackboneRecipe(None, width, kwargs=arguments))
    raise TypeError(_accepted(source))


def takes_width(key: str, registry: AnyRegistry) -> bool:
    """Return whether the loader of a registered backbone takes `num_features`, the width of a row in."""
    return "://" not in key and "num_features" in inspect.signature(registry.get(key)).parameters


def _accepted(source: object) -> str:
    return (
        f"backbone got {source!r:.80} of type {type(source).__name__}, expected a registered name, a URL, a pair "
        "(module, num_features) or a loader that returns one"
    )


def _from_name(key: str, kwargs: dict[str, Any], registry: AnyRegistry) -> OpenedBackbone:
    entry = registry.get(key, with_metadata=True)
    if entry.input is not None:
        backbone = load_backbone(key, registry=registry, **kwargs)
        module, width, spec = backbone.module, backbone.num_features, backbone.input
    else:  # a URL, or a loader that does not declare its input
        module, width = registry.load(key, **kwargs)
        spec = None
    packages = _versions(("torch", *entry.requires))
    return _opened(module, spec, BackboneRecipe(key, width, kwargs=kwargs, packages=packages))


def _from_pair(pair: tuple[Any, ...], kwargs: dict[str, Any]) -> OpenedBackbone:
    """Open a (module, num_features) pair. Raises TypeError for another pair, or with backbone_kwargs."""
    if kwargs:
        raise TypeError(f"backbone_kwargs={kwargs!r} are for a loader, and a (module, num_features) pair has none")
    if len(pair) != 2 or not isinstance(pair[0], nn.Module) or not isinstance(pair[1], int):
        raise TypeError(_accepted(pair))
    module, width = pair
    return _opened(module, None, BackboneRecipe(None, width))


def _opened(module: nn.Module, spec: InputSpec | None, recipe: BackboneRecipe) -> OpenedBackbone:
    """Return the loaded backbone. Raises TypeError if it is not a module."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"backbone {recipe.name!r} is a {type(module).__name__}, expected an nn.Module")
    spec = spec or getattr(module, "input", None)
    remote = is_remote(module)
    revision = getattr(module, "revision", None) if remote else None
    return OpenedBackbone(module, spec, replace(recipe, remote=remote, revision=revision))


def _from_recipe(recipe: BackboneRecipe, registry: AnyRegistry) -> OpenedBackbone:
    """Open without weights and without the network: the checkpoint holds the weights, or the server does.

    Raises ValueError without a name, RevisionError for another width.
    """
    if recipe.name is None:
        raise ValueError(
            "this task's backbone was given as a module or a loader, which a checkpoint does not hold: pass it again, "
            "as in load_from_checkpoint(path, backbone=(module, num_features))"
        )
    if recipe.remote:
        return OpenedBackbone(DeferredBackbone(recipe, registry), None, recipe)
    loader = registry.get(recipe.name)
    skips = {"pretrained": False} if "pretrained" in inspect.signature(loader).parameters else {}
    opened = _from_name(recipe.name, {**recipe.kwargs, **skips}, registry)
    if opened.recipe.num_features != recipe.num_features:
        raise RevisionError(
            f"backbone {recipe.name!r} has num_features={opened.recipe.num_features} here, and the checkpoint was made "
            f"with {recipe.num_features} by {recipe.packages}: install those versions"
        )
    return OpenedBackbone(opened.module, opened.input, recipe)


class DeferredBackbone(nn.Module):
    """A remote backbone from a checkpoint: opened at its first use, so that loading needs no network."""

    is_remote = True

    def __init__(self, recipe: BackboneRecipe, registry: AnyRegistry) -> None:
        super().__init__()
        self.num_features = recipe.num_features
        self._recipe = recipe
        self._registry = registry
        self._module: nn.Module | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> DeferredBackbone:
        return DeferredBackbone(self._recipe, self._registry)

    @property
    def revision(self) -> str | None:
        """The revision in the checkpoint."""
        return self._recipe.revision

    @property
    def input(self) -> InputSpec | None:
        """The backbone's InputSpec; asks the server."""
        return getattr(self.opened(), "input", None)

    @property
    def takes_pixels(self) -> bool:
        """Whether the server normalises images of uint8; asks the server."""
        return takes_pixels(self.opened())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features [rows, num_features] of inputs [rows, ...]; opens the backbone first if necessary."""
        features: Tensor = self.opened()(inputs)
        return features

    def opened(self) -> nn.Module:
        """Connect once.  Raises RevisionError if the server's revision is not the checkpoint's."""
        if self._module is None:
            name = str(self._recipe.name)
            module, _ = self._registry.load(name, **self._recipe.kwargs)
            check_revisions(name, module.revision, "the checkpoint", self._recipe.revision)
            self._module = module
        return self._module


def check_revisions(name: str, got: str | None, source: str, expected: str | None) -> None:
    """Raise RevisionError, with both revisions, unless they are the same."""
    if got != expected:
        raise RevisionError(
            f"backbone {name!r} has revision {got}, and {source} has {expected}: they compute different features; "
            "serve or install the one that was recorded, or train the task again"
        )


def revision_of(module: nn.Module, spec: InputSpec | None) -> str:
    """Return the revision of the function that the module computes now."""
    if is_remote(module):
        return str(module.revision)
    return Backbone("", module, 0, spec or _ANY_INPUT).revision()


def example_batch(spec: InputSpec | None) -> Tensor:
    """Return two rows that the backbone takes, the same at every call: [2, ...].

    Raises ValueError if the backbone does not declare its input.
    """
    if spec is None:
        raise ValueError("this backbone does not declare its input: pass sample=, a batch of inputs [rows, ...]")
    return example_rows(spec, 2)


def takes_pixels(module: nn.Module) -> bool:
    """Return whether an image backbone takes uint8: a local one does, and a remote one if its server does."""
    return not is_remote(module) or bool(getattr(module, "takes_pixels", False))


def in_floats(rows: Any, spec: InputSpec | None) -> Any:
    """Return pixels [batch, 3, height, width], uint8, normalised as an image backbone's input says.

    All other inputs are unchanged, also integers for a backbone that does not declare an image input.
    """
    if isinstance(spec, ImageInput) and isinstance(rows, Tensor) and rows.dtype == torch.uint8:
        return normalized(rows, spec)
    return rows


def in_type_of(rows: Any, module: nn.Module) -> Any:
    """Return floating rows in the type of the module's parameters; all other inputs, and under autocast, unchanged.

    rows: [batch, ...], or strings.  float64, numpy's default, becomes float32 for a module without parameters.
    """
    if not isinstance(rows, Tensor) or not rows.is_floating_point() or torch.is_autocast_enabled(rows.device.type):
        return rows.float() if isinstance(rows, Tensor) and rows.dtype == torch.float64 else rows
    tensors = itertools.chain(module.parameters(), module.buffers())
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
    if dtype is None:
        dtype = torch.float32 if rows.dtype == torch.float64 else rows.dtype
    return rows.to(dtype)


def fingerprint(module: nn.Module) -> tuple[int, ...]:
    """Return a checksum of every value of the module's state, which takes about 1 ms for each megabyte."""
    return tuple(map(_checksum, module.state_dict().values()))


def state_of(value: object) -> object:
    """Return a value that changes if torch counts a write to a tensor of a module's state.

    Other values, such as the packed parameters of quantised layers, have no such count: the checksum of them.
    """
    return (value.data_ptr(), value._version) if isinstance(value, Tensor) else _checksum(value)  # noqa: SLF001


def _checksum(value: object) -> int:
    if not isinstance(value, Tensor) or value.is_quantized:
        return zlib.crc32(canonical_line(value))
    return zlib.crc32(tensor_bytes(value))


def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    names = {name for library in libraries for name in _distributions().get(library, [])[:1]}
    return {name: metadata.version(name) for name in sorted(names)}


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()
