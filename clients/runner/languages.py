"""The clients: the toolchain, the build and the programs of each."""

# ruff: noqa: S603 - it runs our own programs

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"
BUILD = CLIENTS / "build"
_OUTPUTS = ("node_modules", "dist", "generated", "package-lock.json", "__pycache__")


@dataclass(frozen=True)
class Language:
    """One client.

    commands, files: the toolchain is there if all of these are.  packages: Debian 12's, which install it.
    build: the command to run in its folder; empty if there is nothing to build.
    conformance, example: programs, to which their arguments are added.  offline: whether it reads recorded messages.
    """

    name: str
    commands: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    conformance: tuple[str, ...] = ()
    example: tuple[str, ...] = ()
    offline: bool = True

    def missing(self) -> str | None:
        """Return why this machine cannot build and run it, or None if it can."""
        absent = [command for command in self.commands if shutil.which(command) is None]
        absent += [file for file in self.files if not Path(file).exists()]
        if not absent:
            return None
        return f"{', '.join(absent)} not found: apt-get install {' '.join(self.packages)}"

    def is_built(self) -> bool:
        """Return whether it was built from the present sources."""
        return not self.build or (self._stamp.exists() and self._stamp.read_text() == self._digest())

    def make(self) -> None:
        """Build it unless it is built. Raises RuntimeError with the end of the build's output."""
        if self.is_built():
            return
        environment = {"MAKEFLAGS": "-j1", "CXXFLAGS": "-O1", **os.environ}
        done = subprocess.run(
            self.build, cwd=CLIENTS / self.name, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"its build failed:\n{(done.stdout + done.stderr)[-2000:]}")
        BUILD.mkdir(exist_ok=True)
        self._stamp.write_text(self._digest())

    @property
    def _stamp(self) -> Path:
        return BUILD / f"{self.name}.stamp"

    def _digest(self) -> str:
        digest = hashlib.sha256()
        sources = [*(CLIENTS / self.name).rglob("*"), *(ROOT / "protos").rglob("*.proto"), ROOT / "protos/buf.gen.yaml"]
        for path in sorted(sources):
            if path.is_file() and not set(path.parts).intersection(_OUTPUTS):
                digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
        return digest.hexdigest()


def _java(program: str) -> tuple[str, ...]:
    return ("java", "-XX:TieredStopAtLevel=1", f"@{BUILD}/java/arguments", f"midrib.program.{program}")


_PROTOC = ("protobuf-compiler", "libprotobuf-dev")
_BUF = ("node", "npm")
_NODE = ("nodejs", "npm")

# Maven takes these from Debian's repository: the client's dependencies, the plugins, and the plugins' dependencies.
_MAVEN_FILES = (
    "io/grpc/grpc-netty",
    "com/google/protobuf/protobuf-java",
    "com/google/api/grpc/proto-google-common-protos",
    "org/apache/maven/plugins/maven-compiler-plugin",
    "org/apache/maven/plugins/maven-jar-plugin",
    "org/apache/maven/plugins/maven-install-plugin",
    "org/junit/junit-bom",
)

LANGUAGES = (
    Language(
        "python",
        conformance=(sys.executable, "-m", "clients.python.conformance"),
        example=(sys.executable, "-m", "clients.python.example"),
    ),
    Language(
        "generic",
        commands=_BUF,
        packages=_NODE,
        build=("../../build-support/clients-buf", "--where"),
        conformance=(sys.executable, "-m", "clients.generic.conformance"),
        offline=False,
    ),
    Language(
        "typescript",
        commands=_BUF,
        packages=_NODE,
        build=("./build",),
        conformance=("node", f"{BUILD}/typescript/conformance.js"),
        example=("node", f"{BUILD}/typescript/example.js"),
    ),
    Language(
        "go",
        commands=("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc"),
        files=("/usr/share/gocode/src/google.golang.org/grpc", "/usr/share/gocode/src/google.golang.org/protobuf"),
        packages=(
            *_PROTOC,
            *("golang-go", "golang-google-grpc-dev", "golang-google-protobuf-dev"),
            *("protoc-gen-go", "protoc-gen-go-grpc"),
        ),
        build=("./build",),
        conformance=(f"{BUILD}/go/bin/conformance",),
        example=(f"{BUILD}/go/bin/example",),
    ),
    Language(
        "cpp",
        commands=("cmake", "g++", "make", "pkg-config", "protoc", "grpc_cpp_plugin"),
        files=("/usr/include/grpcpp/grpcpp.h",),
        packages=(*_PROTOC, "cmake", "g++", "make", "pkg-config", "libgrpc++-dev", "protobuf-compiler-grpc"),
        build=("./build",),
        conformance=(f"{BUILD}/cpp/conformance",),
        example=(f"{BUILD}/cpp/example",),
    ),
    Language(
        "java",
        commands=("javac", "mvn", "protoc", "grpc_java_plugin"),
        files=tuple(f"/usr/share/maven-repo/{file}" for file in _MAVEN_FILES),
        packages=(
            *_PROTOC,
            *("default-jdk-headless", "libgrpc-java", "protobuf-compiler-grpc-java-plugin", "libprotobuf-java"),
            *("libnetty-java", "libperfmark-java", "libgeronimo-annotation-1.3-spec-java", "libgoogle-gson-java"),
            *("libgoogle-common-protos-java", "libanimal-sniffer-java", "maven", "libmaven-compiler-plugin-java"),
            *("libmaven-jar-plugin-java", "libmaven-install-plugin-java", "junit5"),
        ),
        build=("./build",),
        conformance=_java("Conformance"),
        example=_java("Example"),
    ),
)
