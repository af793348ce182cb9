"""The version of every package: show it, or set it for a release.

python3 build-support/versions.py [VERSION]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# For each file, the text before and after its version. The version of the Go module is that of the wheels.
PLACES: Mapping[str, tuple[str, str]] = {
    "build-support/macros.pants": (r'^VERSION = "', r'"$'),
    "clients/cpp/CMakeLists.txt": (r"^project\(midrib VERSION ", r" "),
    "clients/java/pom.xml": (r"<artifactId>midrib-client</artifactId>\n  <version>", r"</version>"),
    "clients/java/program/pom.xml": (r"<artifactId>midrib-client</artifactId>\n      <version>", r"</version>"),
    "clients/typescript/package.json": (r'^  "version": "', r'"'),
    "deploy/helm/midrib/Chart.yaml": (r"^version: ", r"$"),
}
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def versions(root: Path) -> dict[str, str]:
    """Return the version that each file has. Raises ValueError for a file without one."""
    return {file: _match(root, file).group(2) for file in PLACES}


def set_version(root: Path, version: str) -> None:
    """Write a version into every file. Raises ValueError unless it is MAJOR.MINOR.PATCH."""
    if not _VERSION.fullmatch(version):
        raise ValueError(f"the version is {version!r}, expected MAJOR.MINOR.PATCH, such as 0.2.0")
    for file in PLACES:
        match = _match(root, file)
        text = match.string
        (root / file).write_text(text[: match.start(2)] + version + text[match.end(2) :])


def _match(root: Path, file: str) -> re.Match[str]:
    before, after = PLACES[file]
    match = re.search(f"({before})({_VERSION.pattern})({after})", (root / file).read_text(), re.MULTILINE)
    if match is None:
        raise ValueError(f"{file} has no version after {before!r}: correct PLACES in {Path(__file__).name}")
    return match


def main(arguments: list[str]) -> int:
    """Set the version that is passed; print the version of every file, and fail if they differ."""
    if arguments:
        set_version(ROOT, arguments[0])
    present = versions(ROOT)
    for file, version in present.items():
        print(version, file)
    return 0 if len(set(present.values())) == 1 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
