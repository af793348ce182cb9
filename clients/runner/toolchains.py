"""Brings the toolchains that a machine lacks: by apt-get, as root, from Debian's own packages."""

# ruff: noqa: S603, S607, T201 - it runs apt-get, and says so

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

from clients.runner.languages import Language

# A mirror that hiccups, or another apt-get that is still at work, must not cost a whole run.
_PATIENT = ("-qq", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=120")
_TRIES = 2


def install(languages: Iterable[Language]) -> bool:
    """Install what is missing. False where this machine cannot: then what is missing is skipped, not failed."""
    packages = sorted({package for language in languages if language.missing() for package in language.packages})
    if not packages:
        return True
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"not installed, since that takes apt-get and root: {' '.join(packages)}", flush=True)
        return False
    print(f"installing {' '.join(packages)}", flush=True)
    if not (_apt_get("update") and _apt_get("install", "-y", "--no-install-recommends", *packages)):
        print(f"apt-get failed {_TRIES} times, its own lines above say why", flush=True)
    return True


def _apt_get(*arguments: str) -> bool:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", *_PATIENT, *arguments]
    return any(
        subprocess.run(command, env=quiet, stdout=sys.stderr, check=False).returncode == 0 for _ in range(_TRIES)
    )
