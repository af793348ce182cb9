"""`midrib embed`: files in, one file of features out, with progress on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from midrib.remote._command.backbone import cluster_embedder, load_embedder
from midrib.remote._command.options import Access

if TYPE_CHECKING:
    from midrib.remote._files.embed_files import Progress
    from midrib.remote._files.embedders import ValueEmbedder

_INTERRUPTED: Final = 130  # the exit status that shells give to a command ended by Ctrl-C
_LINE_EVERY_S: Final = 5.0


def embed(
    backbone: str,
    inputs: Sequence[str],
    out: str,
    access: Access,
    *,
    imports: Sequence[str] | None,
    as_json: bool,
    cluster: str | None = None,
    made_by: str | None = None,
    **options: Any,
) -> None:
    """Embed files through a server (grpc://...), or with a registered backbone in this process.

    options: those of `embed_files`.  imports: modules that register backbones of this process.
    cluster: the address of a Ray cluster, whose actors embed in place of this process.
    made_by: the backbone of the output that is replaced; None if there is none, or any may be replaced.
    Raises FileExistsError if it is another backbone, and the errors of `embed_files`.
    """
    progress, stack = _ProgressLine(), contextlib.ExitStack()
    progress.show("reading the inputs ...")

    def work() -> Progress:
        from midrib.remote._files.embed_files import embed_files

        return embed_files(make, inputs, out, on_progress=progress.update, **options)

    def make() -> ValueEmbedder:
        """Return the embedder. Raises FileExistsError if another backbone has made the output."""
        progress.show(f"{'connecting to' if '://' in backbone else 'loading'} {backbone} ...")
        if cluster is None:
            embedder = load_embedder(backbone, access, imports)
        else:
            embedder = stack.enter_context(cluster_embedder(cluster, backbone, access, imports))
        if made_by not in (None, embedder.name):
            raise FileExistsError(
                f"{out} exists and was made by {made_by}: pass --overwrite to replace it, or another --out"
            )
        progress.begin()
        return embedder

    try:
        with contextlib.redirect_stdout(sys.stderr), stack:  # loaders and Ray print, and programs parse our output
            done = _in_thread(work)
    except KeyboardInterrupt:
        progress.end()
        _leave(out)
    except Exception:
        progress.end()
        _say_what_is_left(out)
        raise
    finally:
        progress.end()
    _print_result(out, done, as_json=as_json)


def backbone_of_output(out: str, inputs: Sequence[str], column: str, id_column: str) -> str | None:
    """Return the name of the backbone that made a local output; None if there is none.

    Raises FileExistsError if it holds other items than the inputs, and InvalidInputError for a folder or another file
    that cannot be an output. The same command may be run again.
    """
    from midrib.remote._files.formats.columns import InputColumns
    from midrib.remote._files.sources import Sources
    from midrib.remote._files.storage import Downloads, is_url, output_at
    from midrib.remote._files.writers import check_output

    if is_url(out) or not Path(out).exists():
        return None
    check_output(output_at(out))
    with Downloads() as downloads:
        ids = {item.id for item in Sources(list(inputs), InputColumns(column, id_column), downloads).items()}
    backbone, earlier_ids = _backbone_and_ids(out)
    if ids != earlier_ids:
        raise FileExistsError(
            f"{out} exists and was made from other inputs: pass --overwrite to replace it, or another --out"
        )
    return backbone


def _backbone_and_ids(out: str) -> tuple[str | None, set[str]]:
    """Return the backbone of an output and the ids of its items, bad ones included.

    None and no ids if it is not an output of `midrib embed`.
    """
    from midrib.remote._files.output_reader import read_output

    bad = Path(f"{out}.bad.jsonl")
    try:
        lines = bad.read_text(encoding="utf-8").splitlines() if bad.exists() else []
        rows = read_output(Path(out))
        return rows.backbone, {*rows.ids, *(json.loads(line)["id"] for line in lines)}
    except (ValueError, KeyError, OSError):
        return None, set()


def _say_what_is_left(out: str) -> None:
    """Print on stderr the folder that a failed run has left, if there is one."""
    from midrib.remote._files.storage import output_at

    folder = output_at(out).path.with_name(f"{output_at(out).path.name}.parts")
    if folder.is_dir():
        typer.echo(f"{folder} holds the finished chunks: run the same command again to resume, or delete it", err=True)


def _print_result(out: str, done: Progress, *, as_json: bool) -> None:
    if as_json:
        fields = {"out": out, "rows": done.done - done.bad, "bad": done.bad, "resumed": done.resumed}
        typer.echo(json.dumps(fields))
        return
    earlier = f", {done.resumed} of them by an earlier run" if done.resumed else ""
    typer.echo(f"{out}: {done.done - done.bad} rows{earlier}")
    if done.bad:
        typer.echo(f"{out}.bad.jsonl: {done.bad} items that could not be embedded", err=True)


def _in_thread(work: Callable[[], Progress]) -> Progress:
    """Run the work in another thread, and return its result or raise its error.

    Ctrl-C interrupts this thread at once, also while the other one loads a model or waits for a silent server.
    """
    results: list[Progress] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again by the other thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)  # a join without timeout would delay Ctrl-C
    if errors:
        raise errors[0]
    return results[0]


def _leave(out: str) -> NoReturn:
    """Print how to resume, and end the process without waiting for calls that still run."""
    typer.echo(f"interrupted: run the same command again to resume {out} from the chunks that are done", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_INTERRUPTED)


class _ProgressLine:
    """The state of the run on stderr: on a terminal one line that is rewritten, elsewhere a line every few seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown_at = float("-inf")
        self._open = False

    def show(self, text: str) -> None:
        """Show a text now."""
        self._shown_at = time.monotonic()
        if sys.stderr.isatty():
            typer.echo(f"\r\x1b[2K{text}", nl=False, err=True)
            self._open = True
        else:
            typer.echo(text, err=True)

    def begin(self) -> None:
        """Show that the backbone is loaded, and measure the rate from now on."""
        self._began = time.monotonic()
        self.show("embedding ...")

    def update(self, progress: Progress) -> None:
        """Show the progress, unless the last line is recent."""
        if not sys.stderr.isatty() and time.monotonic() - self._shown_at < _LINE_EVERY_S:
            return
        rate = (progress.done - progress.resumed) / max(1e-6, time.monotonic() - self._began)
        left = f", {(progress.total - progress.done) / rate:.0f} s left" if rate else ""
        self.show(f"{progress.done} of {progress.total} items, {rate:.0f}/s{left}")

    def end(self) -> None:
        """End the line, so that the next output begins on a new one."""
        if self._open:
            typer.echo(err=True)
            self._open = False
