"""`clients/conformance` on a machine that lacks the toolchain of a client."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clients.runner import __main__ as runner
from clients.runner.languages import Language

RARE = Language("rare", commands=("no-such-compiler",), packages=("rare-compiler",), build=("true",))


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH; the only client is in a rare language."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(runner, "LANGUAGES", (RARE,))
    return tmp_path


def fake_apt_get(folder: Path, *, line: str) -> Path:
    """Make an apt-get that notes its commands in a file and then runs `line`; return the file."""
    program, notes = folder / "apt-get", folder / "notes"
    program.write_text(f'#!/bin/sh\ncase "$*" in *update*) echo update;; *) echo install;; esac >>{notes}\n{line}\n')
    program.chmod(0o755)
    return notes


def test_a_missing_toolchain_is_a_skip(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A developer of one client does not need the tools of all; the output says how to install them."""
    assert runner.main([]) == 0
    assert "no-such-compiler not found: apt-get install rare-compiler" in capsys.readouterr().out


def test_a_machine_without_apt_get_skips_with_a_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--install` needs apt-get."""
    assert runner.main([], installing=True) == 0
    assert "not installed, since that needs apt-get and root: rare-compiler" in capsys.readouterr().out


def test_a_user_without_root_skips_with_a_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command does not ask for a password."""
    fake_apt_get(folder, line="exit 0")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert runner.main([], installing=True) == 0
    assert "needs apt-get and root" in capsys.readouterr().out


def test_a_toolchain_that_could_not_be_installed_is_a_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In CI a missing client is an error. apt-get is tried twice."""
    notes = fake_apt_get(folder, line="exit 100")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runner.main([], installing=True) == 1
    assert notes.read_text().split() == ["update", "update"]
    assert "0 passed, 1 failed, 0 skipped" in capfd.readouterr().out
