"""Build every client whose toolchain this machine has, and run it against a real server.

`clients/conformance [--install | --built] [NAME ...]`.
"""

# ruff: noqa: S603, T201 - it runs our own programs, and prints a table

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.golden.calls import WHITE_NOISE, png
from clients.golden.generate import DIRECTORY, read
from clients.runner.languages import BUILD, LANGUAGES, ROOT, Language
from clients.runner.server import environment, golden_server
from clients.runner.toolchains import install

EXAMPLE = "golden/embedding/image"
TIMEOUT_S = 300


@dataclass
class Outcome:
    """The result of one client: the names of its checks, or the reason why it was skipped."""

    name: str
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: str = ""

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.name:<12} skipped: {self.skipped}"
        verdict = f"{len(self.failed)} failed" if self.failed else "ok"
        return "\n    ".join([f"{self.name:<12} {len(self.passed):>3} passed, {verdict}", *self.failed])


def main(names: Sequence[str], *, built_only: bool = False, installing: bool = False) -> int:
    """Print the table and its closing line, and return the exit status.

    built_only: build nothing.  installing: install missing toolchains first; if that is possible, skip no client.
    """
    chosen = [language for language in LANGUAGES if not names or language.name in names]
    required = installing and install(chosen)
    outcomes = {language.name: _prepare(language, built_only=built_only, required=required) for language in chosen}
    ready = [language for language in chosen if not (outcomes[language.name].skipped or outcomes[language.name].failed)]
    if ready:
        with golden_server() as server:
            for language in ready:
                _run(language, server, outcomes[language.name])
    for outcome in outcomes.values():
        _say(str(outcome))
    passed = sum(len(outcome.passed) for outcome in outcomes.values())
    failed = sum(len(outcome.failed) for outcome in outcomes.values())
    _say(f"{passed} passed, {failed} failed, {sum(bool(outcome.skipped) for outcome in outcomes.values())} skipped")
    return 1 if failed else 0


def _prepare(language: Language, *, built_only: bool, required: bool) -> Outcome:
    outcome = Outcome(language.name)
    if built_only and not language.is_built():
        outcome.skipped = "not built from these sources: run clients/conformance"
    elif missing := language.missing():
        if required:
            outcome.failed.append(missing)
        else:
            outcome.skipped = missing
    elif not language.is_built():
        _say(f"building {language.name} ...")
        try:
            language.make()
        except RuntimeError as error:
            outcome.failed.append(str(error))
    return outcome


def _run(language: Language, server: dict[str, Any], outcome: Outcome) -> None:
    for release in sorted(DIRECTORY.iterdir()):
        if release.is_dir():
            _run_checks(language, server["address"], release, outcome)
    if language.example:
        _run_example(language, server, outcome)


def _run_checks(language: Language, address: str, release: Path, outcome: Outcome) -> None:
    done = _call(*language.conformance, address, str(release))
    lines = done.stdout.splitlines()
    ok = {line.removeprefix("ok ") for line in lines if line.startswith("ok ")}
    expected = _names(release, offline=language.offline)
    outcome.passed += [name for name in expected if name in ok]
    broken = [line for line in lines if line.startswith("not ok ")]
    outcome.failed += [line[:400] for line in broken]
    for name in expected:  # a program that ends early has failed its remaining checks
        if name not in ok and not any(line.startswith(f"not ok {name} - ") for line in broken):
            outcome.failed.append(f"not ok {name} - did not run: {done.stderr[-400:]}")


def _run_example(language: Language, server: dict[str, Any], outcome: Outcome) -> None:
    image = BUILD / "example.png"
    BUILD.mkdir(exist_ok=True)
    image.write_bytes(png(WHITE_NOISE))
    (revision,) = (served["revision"] for served in server["backbones"] if served["url"].endswith(EXAMPLE))
    want = f"embedding: 4 features of revision {revision[:12]}\nstream: 8 embeddings\nrefused: BACKBONE_NOT_FOUND\n"
    done = _call(*language.example, server["address"], EXAMPLE, str(image))
    if done.stdout == want and done.returncode == 0:
        outcome.passed.append("example")
    else:
        outcome.failed.append(f"not ok example - got {done.stdout!r} {done.stderr[-400:]!r}, expected {want!r}")


def _names(release: Path, *, offline: bool) -> list[str]:
    kinds = ["messages", "tensors", "statuses"] if offline else []
    kinds += ["embeddings", "gradients", "refusals"]
    return [f"{kind}: {row[0]}" for kind in kinds for row in read(release, f"{kind}.tsv")] + ["stream"]


def _call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="clients/conformance", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*(language.name for language in LANGUAGES), []])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--built", action="store_true", help="build nothing: skip clients that are not built")
    mode.add_argument("--install", action="store_true", help="install missing toolchains, as root: skip nothing")
    arguments = parser.parse_args()
    sys.exit(main(arguments.names, built_only=arguments.built, installing=arguments.install))
