"""Run Pants with only a package index: by the stock `pants` launcher if it works, otherwise by Pants from PyPI.

    bootstrap.py run ARG...   make the missing tools and lockfiles, then run Pants (./pants calls this)
    bootstrap.py export       print this machine's settings for the shell (.pants.bootstrap calls this)
    bootstrap.py python       print the Python that our code is built and tested with

Settings that differ between machines are passed to Pants as PANTS_* variables, so that pants.toml names no path and
no host. Generated files are in the user's cache, under a digest of their inputs. This runs before any environment
exists, so it uses only the standard library of Python 3.8.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "midrib-build"

OUR_PYTHON = "3.11"  # the oldest that our wheels run on
PANTS = "2.17.1"  # the newest on PyPI; pants.toml pins the same, so that both routes run one version
PANTS_PYTHON = "3.9"  # the newest Python that this Pants runs on
PEX = "2.1.137"  # the version that this Pants expects
PROTOC = "1.74.0"  # grpcio-tools: gencode 6.31, so the wheels may say protobuf>=6.31
GOOGLE_PROTOS = "1.70.0"  # googleapis-common-protos: google/rpc/*.proto, which also has their Python modules

FIND_LINKS, INDEXES = "PANTS_PYTHON_REPOS_FIND_LINKS", "PANTS_PYTHON_REPOS_INDEXES"

PROTOC_SHIM = """\
#!{python} -sE
# Runs grpcio-tools under the name and with the flags that Pants uses; writes .pyi beside .py.
import sys
from pathlib import Path
import grpc_tools
from grpc_tools import protoc

well_known = Path(grpc_tools.__file__).parent / "_proto"
google_rpc = Path(grpc_tools.__file__).parent.parent

arguments = ["protoc", "-I."]
for argument in sys.argv[1:]:
    if argument.startswith("--plugin=protoc-gen-grpc="):
        continue
    arguments.append("--grpc_python_out" if argument == "--grpc_out" else argument)
for flag, value in zip(sys.argv, sys.argv[1:]):
    if flag == "--python_out":
        arguments += ["--pyi_out", value]
sys.exit(protoc.main([*arguments, f"-I{{well_known}}", f"-I{{google_rpc}}"]))
"""


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["export"]:
        settings = {**pip_settings(), **protoc_settings()}
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in settings.items()))
    elif arguments[:1] == ["python"]:
        print(find_python(OUR_PYTHON))
    elif arguments[:1] == ["run"]:
        run(arguments[1:])
    else:
        sys.exit(f"bootstrap.py: got {arguments[:1]}, expected run, export or python: call ./pants instead")


def run(arguments: list[str]) -> NoReturn:
    try:
        pants = prepare()
    except subprocess.CalledProcessError as error:
        sys.exit(f"[bootstrap] this failed with status {error.returncode}: {shlex.join(map(str, error.cmd))}")
    os.chdir(ROOT)
    os.execv(pants, [str(pants), *arguments])


def prepare() -> Path:
    """Make the missing tools, settings and lockfiles; return the Pants to run."""
    with locked(CACHE / "lock"):
        os.environ.update({**pip_settings(), **protoc_settings()})
        pants = stock_launcher() or pants_from_index()
        make_lockfiles(pants)
    return pants


def stock_launcher() -> Path | None:
    """Return the `pants` on PATH if it is not ours and runs the version that we pin. The answer is cached."""
    launcher = shutil.which("pants")
    if launcher is None or (ROOT / "pants").samefile(launcher):
        return None
    verdict = cached("stock", launcher, PANTS)
    if not verdict.exists():
        trial = subprocess.run([launcher, "--version"], cwd=ROOT, capture_output=True, text=True, check=False)
        verdict.write_text(trial.stdout.strip() if trial.returncode == 0 else "")
    return Path(launcher) if verdict.read_text() == PANTS else None


def pants_from_index() -> Path:
    venv = make_venv("pants", PANTS_PYTHON, f"pantsbuild.pants=={PANTS}")
    pex = cached("pex", PEX)
    if not pex.exists():
        say(f"building PEX {PEX}")
        part = pex.with_suffix(".part")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PEX_")}
        build = [str(venv / "bin/pex"), f"pex=={PEX}", "-c", "pex", "--no-compile", "--no-use-system-time"]
        subprocess.run([*build, "-o", str(part)], check=True, env=clean, stdout=sys.stderr)
        part.rename(pex)
    os.environ.update({**tool_settings("PEX_CLI", f"v{PEX}", pex), "NO_SCIE_WARNING": "1"})
    return venv / "bin/pants"


def protoc_settings() -> dict[str, str]:
    """Return settings that make Pants use grpcio-tools instead of the protoc and the gRPC plugin that it downloads."""
    shim = PROTOC_SHIM.format(python=make_protoc() / "bin/python")
    archive, plugin = cached("protoc.zip", shim), cached("grpc_python_plugin")
    if not archive.exists():
        plugin.write_text("#!/bin/sh\nexit 1  # never called: protoc has the plugin built in\n")
        member = zipfile.ZipInfo("bin/protoc", (1980, 1, 1, 0, 0, 0))
        member.external_attr = 0o755 << 16
        with zipfile.ZipFile(archive.with_suffix(".part"), "w") as part:
            part.writestr(member, shim)
        archive.with_suffix(".part").rename(archive)
    version = f"grpcio-tools-{PROTOC}"
    return {
        **tool_settings("PROTOC", version, archive),
        **tool_settings("GRPC_PYTHON_PLUGIN", version, plugin),
    }


def make_protoc() -> Path:
    return make_venv("protoc", OUR_PYTHON, f"grpcio-tools=={PROTOC}", f"googleapis-common-protos=={GOOGLE_PROTOS}")


def tool_settings(tool: str, version: str, file: Path) -> dict[str, str]:
    """Return settings that point one of Pants's external tools at a file of this machine."""
    systems = {"Linux": "linux", "Darwin": "macos"}
    machines = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
    target = f"{systems[platform.system()]}_{machines[platform.machine()]}"
    content = file.read_bytes()
    fingerprint = f"{version}|{target}|{hashlib.sha256(content).hexdigest()}|{len(content)}"
    return {
        f"PANTS_{tool}_VERSION": version,
        f"PANTS_{tool}_URL_TEMPLATE": file.as_uri(),
        f"PANTS_{tool}_KNOWN_VERSIONS": repr([fingerprint]),
    }


def pip_settings() -> dict[str, str]:
    """Return pip's settings of this machine for Pants: its indexes, its folders of wheels, its certificates."""
    python = make_protoc() / "bin/python"
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    configured = dict(line.split("=", 1) for line in listed.stdout.splitlines() if "=" in line)

    def setting(name: str) -> list[str]:
        value = configured.get(f":env:.{name}") or configured.get(f"global.{name}") or "''"
        return value.strip("'").replace("\\n", " ").split()

    links = [Path(link).as_uri() if link.startswith("/") else link for link in setting("find-links")]
    indexes = (setting("index-url") or ["https://pypi.org/simple/"]) + setting("extra-index-url")
    settings = {FIND_LINKS: repr(links), INDEXES: repr(indexes)}
    certificates = setting("cert") or [os.environ.get("SSL_CERT_FILE", "")]
    if certificates[0]:
        settings["PANTS_CA_CERTS_PATH"] = certificates[0]
    return settings


def make_lockfiles(pants: Path) -> None:
    """Resolve the checked-in pins on this machine, once for each state of the inputs."""
    folder = ROOT / "3rdparty/python"
    inputs = re.findall(r"^\[python[].].*?(?=^\[|\Z)", (ROOT / "pants.toml").read_text(), re.MULTILINE | re.DOTALL)
    inputs += [path.read_text() for path in sorted(folder.glob("*.txt"))]
    lockfiles = cached("lockfiles", *inputs, os.environ[FIND_LINKS], os.environ[INDEXES])
    if not lockfiles.exists():
        say("resolving the lockfiles")
        for old in folder.glob("*.lock"):
            old.unlink()
        subprocess.run([str(pants), "generate-lockfiles"], cwd=ROOT, check=True, stdout=sys.stderr)
        part = lockfiles.with_suffix(".part")
        shutil.copytree(folder, part, ignore=shutil.ignore_patterns("*.txt", "BUILD"), dirs_exist_ok=True)
        part.rename(lockfiles)
    for lockfile in lockfiles.iterdir():
        here = folder / lockfile.name
        if not here.exists() or here.read_bytes() != lockfile.read_bytes():
            shutil.copy(lockfile, here)


def make_venv(name: str, version: str, *requirements: str) -> Path:
    venv = cached(name, version, *requirements)
    if not (venv / "complete").exists():
        say(f"installing {', '.join(requirements)}")
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([find_python(version), "-m", "venv", str(venv)], check=True, stdout=sys.stderr)
        install = [str(venv / "bin/python"), "-m", "pip", "install", "-qq", *requirements]
        subprocess.run(install, check=True, stdout=sys.stderr)
        (venv / "complete").touch()
    return venv


def cached(name: str, *inputs: str | None) -> Path:
    """Return the path in the cache of the file or folder that is made from these inputs."""
    folder = CACHE / hashlib.sha256(repr(inputs).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def find_python(version: str) -> str:
    """Return a Python of this version that can make a venv: from PATH, or from pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for candidate in [f"python{version}", *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]:
        with contextlib.suppress(OSError):
            probe = [candidate, "-c", "import sys, venv, ensurepip; print(sys.executable)"]
            answer = subprocess.run(probe, capture_output=True, text=True, check=False)
            if answer.returncode == 0:
                return answer.stdout.strip()
    sys.exit(
        f"[bootstrap] Python {version} with venv was found neither on PATH nor in {pyenv}: install it, "
        "or (in place of 3.9) the stock launcher, https://www.pantsbuild.org/docs/installation"
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock: a second ./pants waits until this one has made the tools."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    print(f"[bootstrap] {text}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
