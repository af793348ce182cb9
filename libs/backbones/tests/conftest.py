"""Install the libraries that the environment cannot hold into a separate folder if MIDRIB_EXTERNAL=1.

torchvision is a CUDA build on the package index, and Resemblyzer's requirements want a compiler. Installed without what
they require, into a separate folder, they run here: `MIDRIB_EXTERNAL=1 .venv/bin/pytest libs/backbones`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

_FAMILIES = ("timm==1.0.31", "torchvision==0.28.0", "Resemblyzer==0.1.4")
# The imports of Resemblyzer's code, which is the reference for ours.
_REFERENCES = (
    *("librosa==0.11.0", "audioread==3.1.0", "soxr==1.1.0", "lazy-loader==0.6", "soundfile==0.14.0", "pooch==1.9.0"),
    *("decorator==5.3.1", "msgpack==1.2.4", "numba==0.68.1", "llvmlite==0.50.0", "webrtcvad-wheels==2.0.14.post1"),
)


def _installed_beside() -> Path:
    requirements = [*_FAMILIES, *_REFERENCES]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "midrib-external"
    folder = cache / hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:12]
    if not (folder / "complete").exists():
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(folder)]
        subprocess.run([*install, *requirements], check=True)
        (folder / "complete").touch()
    return folder


if os.environ.get("MIDRIB_EXTERNAL") == "1":
    # Last, so that packages of the environment come first; before the tests are collected, which import these.
    sys.path.append(str(_installed_beside()))
