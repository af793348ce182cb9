"""Files on this machine, and files behind URLs that fsspec opens, such as s3://, gs:// and hf://."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from midrib.wire import InvalidInputError, UnavailableError

_BUCKETS: Final = frozenset({"s3", "s3a", "gs", "gcs"})
_PACKAGES: Final = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf"}


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine.  name: used in ids and messages; the URL if the file was downloaded."""

    path: Path
    name: str

    @property
    def suffix(self) -> str:
        """The ending of the name, in lower case: ".csv"."""
        return PurePosixPath(self.name).suffix.lower()

    def stamp(self) -> str:
        """Return text that changes with the file's content: its size and time of change, or why it has neither."""
        try:
            stat = self.path.stat()
        except OSError as error:
            return repr(error.errno)
        except ValueError as error:  # a name with a NUL, from a table
            return str(error)
        return repr((stat.st_size, stat.st_mtime_ns))


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL.  filesystem: fsspec's.  path: its path in that file system."""

    filesystem: Any
    path: str
    name: str

    @property
    def suffix(self) -> str:
        """The ending of the name, in lower case: ".csv"."""
        return PurePosixPath(self.path).suffix.lower()

    def stamp(self) -> str:
        """Return text that changes with the file's content, as its file system knows it."""
        with _opening(self.name):
            return str(self.filesystem.ukey(self.path))

    def read_bytes(self) -> bytes:
        """Return the content. Raises UnavailableError if the file cannot be read."""
        with _opening(self.name):
            content: bytes = self.filesystem.cat_file(self.path)
        return content


InputFile: TypeAlias = LocalFile | RemoteFile


class Downloads:
    """Copies of the tables behind URLs, each downloaded once; they are deleted when the context ends."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._folder: str | None = None
        self._files: dict[str, LocalFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def local(self, file: InputFile) -> LocalFile:
        """Return the file on this machine. Raises UnavailableError if it cannot be downloaded."""
        if isinstance(file, LocalFile):
            return file
        if self._folder is None:
            self._folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="midrib-embed-"))
        if file.name not in self._files:
            path = Path(self._folder, str(len(self._files)))
            with _opening(file.name):
                file.filesystem.get_file(file.path, str(path))
            self._files[file.name] = LocalFile(path, file.name)
        return self._files[file.name]


def is_url(location: str | Path) -> bool:
    """Return whether the location is a URL rather than a path of this machine."""
    return isinstance(location, str) and "://" in location


def find_files(location: str | Path, suffixes: frozenset[str]) -> InputFile | list[InputFile]:
    """Return the file at a location, or all files below a folder with one of the suffixes, sorted.

    Raises InvalidInputError if nothing is there, or if the package that opens the URL is not installed.
    """
    if is_url(location):
        return _find_remote(str(location), suffixes)
    path = Path(location)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise InvalidInputError(f"no file or folder at {str(path)[:100]} ({error.strerror}): check the path") from error
    if is_folder:
        return _files_below(path, suffixes)
    if not is_file:
        raise InvalidInputError(f"no file or folder at {path}: check the path")
    return LocalFile(path, path.as_posix())


def _files_below(folder: Path, suffixes: frozenset[str]) -> list[InputFile]:
    """Return the files below a folder with one of the suffixes. Raises InvalidInputError if it cannot be read."""
    from midrib.media import files_below

    try:
        files = files_below(folder)
    except OSError as error:
        raise InvalidInputError(
            f"{error.filename} cannot be read ({error.strerror}): check your rights and links"
        ) from error
    return [LocalFile(file, file.as_posix()) for file in files if file.suffix.lower() in suffixes]


def _find_remote(url: str, suffixes: frozenset[str]) -> InputFile | list[InputFile]:
    """Return the file or folder at a URL. Raises InvalidInputError if there is none."""
    filesystem, path = open_filesystem(url)
    with _opening(url):
        if filesystem.isfile(path):
            return RemoteFile(filesystem, path, url)
        names = sorted(filesystem.find(path))
    if not names:
        raise InvalidInputError(f"no file or folder at {url}: check the URL")
    from midrib.media import is_metadata_path

    inside = [name for name in names if not is_metadata_path(PurePosixPath(name.removeprefix(path)))]
    files = [RemoteFile(filesystem, name, filesystem.unstrip_protocol(name)) for name in inside]
    return [file for file in files if file.suffix in suffixes]


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it.

    Raises InvalidInputError if fsspec or the package for this kind of URL is missing, or if the kind is unknown.
    """
    protocol = url.partition("://")[0]
    install = f"pip install 'midrib-remote[{_PACKAGES.get(protocol, 'fsspec')}]'"
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped] # it has no types
    except ImportError as error:
        raise InvalidInputError(f"{url} needs fsspec: {install}") from error
    try:
        filesystem, path = url_to_fs(url)
    except ImportError as error:
        raise InvalidInputError(f"{url} needs a package that is not installed ({error}): {install}") from error
    except ValueError as error:
        raise InvalidInputError(f"{url} is of an unknown kind ({error}): use a path, s3://, gs:// or hf://") from error
    return filesystem, str(path)


@contextlib.contextmanager
def _opening(url: str) -> Iterator[None]:
    """Convert the errors of a file system to InvalidInputError or UnavailableError."""
    try:
        yield
    except FileNotFoundError as error:
        raise InvalidInputError(f"no file at {url}: check the URL") from error
    except Exception as error:  # each file system raises errors of the library that it uses
        raise UnavailableError(
            f"{url} cannot be read ({type(error).__name__}: {error}): check the network and your credentials"
        ) from error


@dataclass(frozen=True)
class Output:
    """The file to write.

    path: on this machine.  url: the complete file is copied to it; None for a local output.
    """

    path: Path
    url: str | None = None

    def is_at(self, location: str | Path) -> bool:
        """Return whether a location, such as an input, is that of the output; links are followed."""
        if self.url is not None or is_url(location):
            return self.url == location
        try:
            return self.path.samefile(location)
        except (OSError, ValueError):  # one of them does not exist
            return False

    def check_bucket(self) -> None:
        """Raise InvalidInputError if the URL's bucket does not exist, UnavailableError if the store does not answer."""
        if self.url is None or self.url.partition("://")[0] not in _BUCKETS:
            return
        filesystem, path = open_filesystem(self.url)
        bucket, exists = path.partition("/")[0], True
        with _opening(self.url):
            try:
                filesystem.info(bucket)
            except FileNotFoundError:
                exists = False
            except PermissionError:
                pass  # who may write objects may be forbidden to look at their bucket
        if not exists:
            raise InvalidInputError(f"output {self.url}: bucket {bucket!r} does not exist, create it or check its name")

    def publish(self) -> None:
        """Copy the output, and the files beside it, to the URL. Raises UnavailableError if that fails."""
        if self.url is None:
            return
        filesystem, path = open_filesystem(self.url)
        for file in sorted(self.path.parent.iterdir()):
            if file.is_file() and file.name.startswith(self.path.name):
                with _opening(self.url):
                    filesystem.put_file(str(file), path + file.name.removeprefix(self.path.name))
                    file.unlink()


def output_at(location: str | Path) -> Output:
    """Return the output for a path or a URL. An output behind a URL is written to the user's cache folder first.

    Raises InvalidInputError if the package that opens the URL is not installed.
    """
    if not is_url(location):
        path = Path(location)
        if path.parts[:1] and path.parts[0].endswith(":"):
            raise InvalidInputError(f"output {path} looks like a URL that became a path: pass URLs as strings")
        return Output(path)
    url = str(location)
    open_filesystem(url)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Output(cache / "midrib" / "embed" / digest / PurePosixPath(url).name, url)
