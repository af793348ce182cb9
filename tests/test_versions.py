"""Every package has one version, and a release builds only the version of its tag."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
GIT = ("git", "-c", "user.name=tester", "-c", "user.email=tester@midrib.example")


def script() -> ModuleType:
    """Return build-support/versions.py as a module."""
    spec = importlib.util.spec_from_file_location("versions", ROOT / "build-support/versions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = script()


@pytest.fixture()
def checkout(tmp_path: Path) -> Path:
    """A repository with the files of a release, committed."""
    for file in [*SCRIPT.PLACES, "build-support/versions.py", "build-support/release"]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    SCRIPT.set_version(tmp_path, "0.2.0")
    (tmp_path / "CHANGELOG.md").write_text("## [0.2.0] - 2026-12-01\n")
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "release: 0.2.0")


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "build-support/release"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_all_packages_have_one_version() -> None:
    """They are released together."""
    assert len(set(SCRIPT.versions(ROOT).values())) == 1


def test_a_version_is_set_everywhere(checkout: Path) -> None:
    """One command sets it, before the tag."""
    SCRIPT.set_version(checkout, "1.10.3")
    assert set(SCRIPT.versions(checkout).values()) == {"1.10.3"}


@pytest.mark.parametrize("version", ["v0.2.0", "0.2", "0.2.0rc1", ""])
def test_another_form_of_version_is_refused(checkout: Path, version: str) -> None:
    """npm, Maven and Go read others differently."""
    with pytest.raises(ValueError, match=r"expected MAJOR\.MINOR\.PATCH, such as 0\.2\.0"):
        SCRIPT.set_version(checkout, version)


def test_a_tagged_commit_is_released(checkout: Path) -> None:
    """The tag, the packages and the changelog agree."""
    git(checkout, "tag", "v0.2.0")
    done = check(checkout)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_commit_without_a_tag_is_refused(checkout: Path) -> None:
    """A version names one commit."""
    assert "the current commit has no tag such as v0.2.0" in check(checkout).stderr


def test_packages_of_another_version_are_refused(checkout: Path) -> None:
    """The output lists their files."""
    git(checkout, "tag", "v0.3.0")
    done = check(checkout)
    assert (done.returncode, "clients/java/pom.xml" in done.stdout) == (1, True)
    assert "these files have another version than v0.3.0" in done.stderr


def test_a_changelog_without_the_version_is_refused(checkout: Path) -> None:
    """Users read there what to do."""
    (checkout / "CHANGELOG.md").write_text("## [Unreleased]\n")
    commit(checkout)
    git(checkout, "tag", "v0.2.0")
    assert "CHANGELOG.md has no heading [0.2.0]" in check(checkout).stderr


def test_uncommitted_changes_are_refused(checkout: Path) -> None:
    """They would be in the packages, but not in the tag."""
    git(checkout, "tag", "v0.2.0")
    (checkout / "CHANGELOG.md").write_text("changed\n")
    assert "there are uncommitted changes" in check(checkout).stderr
