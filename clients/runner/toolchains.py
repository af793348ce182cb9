"""Install missing toolchains from Debian's packages, by apt-get, as root."""

# ruff: noqa: S603, S607, T201 - it runs apt-get, and prints that

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

from clients.runner.languages import Language

# A failed download, or another apt-get that holds the lock, must not fail the whole run.
_OPTIONS = ("-qq", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=120")
_TRIES = 2


def install(languages: Iterable[Language]) -> bool:
    """Install the missing toolchains. Returns False if this machine cannot; their clients are then skipped."""
    packages = sorted({package for language in languages if language.missing() for package in language.packages})
    if not packages:
        return True
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"not installed, since that needs apt-get and root: {' '.join(packages)}", flush=True)
        return False
    print(f"installing {' '.join(packages)}", flush=True)
    if not (_apt_get("update") and _apt_get("install", "-y", "--no-install-recommends", *packages)):
        print(f"apt-get failed {_TRIES} times: its output above says why", flush=True)
    return True


def _apt_get(*arguments: str) -> bool:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", *_OPTIONS, *arguments]
    return any(
        subprocess.run(command, env=quiet, stdout=sys.stderr, check=False).returncode == 0 for _ in range(_TRIES)
    )
