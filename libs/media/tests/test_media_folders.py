"""The files of a folder: hidden ones, links and what is not a file."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path, PurePosixPath

import pytest

from midrib.media import files_below, is_metadata_path


def names(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files_below(folder)]


def make(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def test_files_are_in_the_order_of_their_paths(tmp_path: Path) -> None:
    """A run that is resumed finds the same order."""
    assert names(make(tmp_path, "b/2", "b/1", "a", "C")) == ["C", "a", "b/1", "b/2"]


def test_hidden_files_and_those_of_systems_are_left_out(tmp_path: Path) -> None:
    """They have the suffixes of pictures, and hold metadata or old versions."""
    make(tmp_path, "a.png", "._a.png", ".b.png", ".git/c.png", "__MACOSX/d.png", "Thumbs.db", "x/desktop.ini")
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("name", ["lost+found", "$RECYCLE.BIN", "System Volume Information"])
def test_the_folders_of_a_volume_are_left_out(tmp_path: Path, name: str) -> None:
    """A dataset at the top of a volume has one that only root may read."""
    make(tmp_path, "a.png", f"{name}/b.png")
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("path", [".git/a", "a/.b", "__MACOSX/a", "a/Thumbs.db"])
def test_a_path_in_a_store_is_hidden_by_any_part(path: str) -> None:
    """Stores have no folders to leave out."""
    assert is_metadata_path(PurePosixPath(path))
    assert not is_metadata_path(PurePosixPath("a/b.png"))


def test_two_links_to_one_folder_both_count(tmp_path: Path) -> None:
    """A class may be a link to another class; it was lost, or took the other's files."""
    make(tmp_path, "cat/1")
    (tmp_path / "bird").symlink_to(tmp_path / "cat")
    (tmp_path / "dog").symlink_to(tmp_path / "cat")
    assert names(tmp_path) == ["bird/1", "cat/1", "dog/1"]


def test_many_folders_that_link_each_other_are_an_error(tmp_path: Path) -> None:
    """Ten of them have ten million paths."""
    folders = [tmp_path / str(number) for number in range(10)]
    for folder in folders:
        folder.mkdir()
        for target in folders:
            (folder / f"to-{target.name}").symlink_to(target)
    with pytest.raises(OSError, match="more than 5 linked folders, each inside the one before"):
        files_below(tmp_path)


def test_links_inside_links_are_followed(tmp_path: Path) -> None:
    """Folders may be linked up to five deep."""
    make(tmp_path, "5/file")
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "next").symlink_to(tmp_path / str(number + 1))
    (tmp_path / "start").symlink_to(tmp_path / "1")
    assert "start/next/next/next/next/file" in names(tmp_path)


def test_links_to_a_folder_above_end(tmp_path: Path) -> None:
    """Also over two folders that link each other."""
    make(tmp_path, "a/1", "b/2")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "other").symlink_to(tmp_path / "a")
    assert names(tmp_path) == ["a/1", "a/other/2", "b/2", "b/other/1"]


def test_pipes_and_sockets_are_not_files(tmp_path: Path) -> None:
    """To read a pipe would wait for ever."""
    make(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.png"))
        assert names(tmp_path) == ["a.png"]


def test_a_link_that_leads_nowhere_is_kept(tmp_path: Path) -> None:
    """It is a row that is lost: reading it says so."""
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    assert names(tmp_path) == ["gone.png"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Its files would be missing in silence."""
    with pytest.raises(NotADirectoryError, match=re.escape(str(tmp_path / "a"))):
        files_below(make(tmp_path, "a") / "a")
