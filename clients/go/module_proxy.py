"""Write a Go module proxy of files, https://go.dev/ref/mod#goproxy-protocol, for a module and for Debian's packages.

python3 module_proxy.py PROXY PATH VERSION FOLDER --gocode GOPATH
"""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path

# The versions in Debian 12. Their go.mod files require versions that Debian does not have, so they get others.
_DEBIAN = {
    "github.com/golang/protobuf": "v1.3.5",
    "golang.org/x/net": "v0.7.0",
    "golang.org/x/sys": "v0.3.0",
    "golang.org/x/text": "v0.7.0",
    "google.golang.org/genproto": "v0.0.0-20200413115906-b5235f65be36",
    "google.golang.org/grpc": "v1.33.3",
    "google.golang.org/protobuf": "v1.28.1",
}


def add_module(proxy: Path, path: str, version: str, folder: Path, *, requirements: str) -> None:
    """Add one version of a module to the proxy. Folders that are modules themselves are left out."""
    target = proxy / path / "@v"
    target.mkdir(parents=True, exist_ok=True)
    (target / "list").write_text(f"{version}\n")
    (target / f"{version}.info").write_text(json.dumps({"Version": version, "Time": "2026-01-01T00:00:00Z"}))
    (target / f"{version}.mod").write_text(requirements)
    with zipfile.ZipFile(target / f"{version}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(f"{path}@{version}/go.mod", requirements)
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.name not in ("go.mod", "go.sum") and not _is_outside(file, folder):
                archive.write(file, f"{path}@{version}/{file.relative_to(folder)}")


def _is_outside(file: Path, folder: Path) -> bool:
    """Return whether a file is part of a module below, or only of the tests."""
    inner = [parent for parent in file.parents if parent != folder and folder in parent.parents]
    return file.name.endswith("_test.go") or any((parent / "go.mod").exists() for parent in inner)


def _debian_requirements(path: str) -> str:
    """Return a go.mod that requires the packages of Debian, of which grpc needs all."""
    if path != "google.golang.org/grpc":
        return f"module {path}\n\ngo 1.17\n"
    required = "".join(f"\t{name} {version}\n" for name, version in _DEBIAN.items() if name != path)
    return f"module {path}\n\ngo 1.17\n\nrequire (\n{required})\n"


def main() -> None:
    """Write the proxy that the arguments describe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("proxy", type=Path)
    parser.add_argument("path")
    parser.add_argument("version")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gocode", type=Path, required=True)
    arguments = parser.parse_args()
    requirements = (arguments.folder / "go.mod").read_text()
    add_module(arguments.proxy, arguments.path, arguments.version, arguments.folder, requirements=requirements)
    for path, version in _DEBIAN.items():
        source = arguments.gocode / "src" / path
        if source.is_dir():  # elsewhere, `go` gets them from its usual proxy
            add_module(arguments.proxy, path, version, source, requirements=_debian_requirements(path))


if __name__ == "__main__":
    main()
