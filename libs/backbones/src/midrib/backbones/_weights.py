"""Where weights come from: a file of an installed package, a file that the caller names, or a hub.

Random weights never stand in for missing ones: whatever cannot be had is a WeightsError that says what to do.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from midrib.backbones._errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHUNK = 1 << 20


class PackagedFile(NamedTuple):
    """A file inside an installed package, known by its digest.

    distribution: what to pip install.  package: the import name (it is located, never imported).  path: inside it.
    """

    distribution: str
    package: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """Return where the file lies, its content checked. Raises WeightsError if it is missing or another."""
        file = package_folder(self.package, self.distribution) / self.path
        if not file.is_file():
            raise WeightsError(f"package {self.distribution} has no file {self.path}: install the version that does")
        found = _sha256(file)
        if found != self.sha256:
            raise WeightsError(
                f"{self.path} of package {self.distribution} has sha256 {found}, expected {self.sha256}: "
                "it is not the file that was checked, reinstall the package"
            )
        return file


def package_folder(package: str, distribution: str) -> Path:
    """Return an installed package's folder without importing it. Raises WeightsError if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"package {distribution} is not installed: pip install {distribution}")
    return Path(spec.submodule_search_locations[0])


def read_state(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint: safetensors, or what torch.save wrote, tensors and plain containers only.

    Raises WeightsError if there is no such file or it holds anything else, such as code.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no checkpoint at {path}: give the path of a .safetensors or a torch file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError) as error:
        # Not the library's own text: torch's advises to read the file unsafely.
        raise WeightsError(
            f"{path} is no checkpoint that can be read safely ({type(error).__name__}): "
            "save its state dict as safetensors"
        ) from error


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose names and shapes must be the module's own. Raises WeightsError with the differences."""
    own = module.state_dict()
    differences = {
        "lack": sorted(own.keys() - state.keys()),
        "have besides": sorted(state.keys() - own.keys()),
        "have in another shape": sorted(
            name for name in own.keys() & state.keys() if own[name].shape != state[name].shape
        ),
    }
    if any(differences.values()):
        found = "; ".join(f"{what} {_first(names)}" for what, names in differences.items() if names)
        raise WeightsError(f"the weights of {source} do not fit {type(module).__name__}: they {found}")
    module.load_state_dict(state)


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def hub_file(repository: str, filename: str) -> Path:
    """Return a file of the Hugging Face hub, fetched or from its cache. Raises WeightsError if neither has it."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise WeightsError("fetching weights needs huggingface_hub: pip install huggingface_hub") from error
    try:
        return Path(hf_hub_download(repository, filename))
    except Exception as error:
        # Its failures are of many libraries (HTTP, cache, tokens, disk); all mean the same to the caller.
        raise WeightsError(
            f"the weights of {repository} could not be fetched ({type(error).__name__}): "
            f"check the network, or pass checkpoint=PATH with a copy of {filename}, or pretrained=False"
        ) from error


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
