"""`midrib embed` and `midrib doctor`: what midrib.remote does, at the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from midrib.remote import Progress, Tls, doctor, embed_files
from midrib.wire import Array

_INTERRUPTED = 130  # the exit status that shells give to a command ended by Ctrl-C


class LocalEmbedder:
    """A registered backbone, loaded into this process."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        from midrib.backbones import load_backbone

        self._backbone = load_backbone(name, **arguments)
        self.name = self._backbone.name
        self.revision = self._backbone.revision()
        self.num_features = self._backbone.num_features

    def __call__(self, kind: str, values: list[Any]) -> Array:
        """Return the features of values of one kind, [values, num_features], float32."""
        import numpy as np
        import torch

        if kind == "images":
            rows = self._backbone.embed_images([v if isinstance(v, bytes) else Path(v).read_bytes() for v in values])
        elif kind == "texts":
            rows = self._backbone.embed_texts(values)
        elif kind == "audio":
            rows = self._backbone.embed_audio([clip.samples for clip in values], values[0].rate)
        else:
            rows = self._backbone.embed(torch.from_numpy(np.stack(values)))
        features: Array = rows.float().cpu().numpy()
        return features


def tls_from(roots: Path | None, own: Path | None) -> Tls | None:
    """What the command's two options say of TLS; None leaves it to the URL's scheme."""
    return None if roots is None and own is None else Tls(roots, own)


def embed(backbone: str, inputs: Sequence[Path], out: Path, **options: Any) -> None:
    """Embed files through a server (grpc://...), or with a registered backbone in this process.

    options: those of `embed_files`; token, tls and timeout only go to a server.
    """
    from midrib.server._command.serve import parse_backbone

    embedder: Any = backbone
    if "://" not in backbone:
        local = parse_backbone(backbone)
        embedder = partial(LocalEmbedder, local["name"], local["arguments"])
        options = {name: value for name, value in options.items() if name in ("column", "id_column")}
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("embedding", total=None, rate="")

        def show(progress: Progress) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = (progress.done - progress.resumed) / elapsed if elapsed else 0.0
            left = f", {(progress.total - progress.done) / rate:.0f} s left" if rate else ""
            bar.update(task, completed=progress.done, total=progress.total, rate=f"{rate:.0f}/s{left}")

        try:
            done = embed_files(embedder, inputs, out, on_progress=show, **options)
        except KeyboardInterrupt:
            bar.stop()
            _leave(out)
    typer.echo(
        f"{out}: {done.done - done.bad} rows" + (f", {done.resumed} of them by an earlier run" if done.resumed else "")
    )
    if done.bad:
        typer.echo(f"{out}.bad.jsonl: {done.bad} items that could not be embedded", err=True)


def _leave(out: Path) -> NoReturn:
    """Say how to resume, and end the process without waiting for calls that still run."""
    typer.echo(f"interrupted: run the same command again to resume, {out}.parts holds what is done", err=True)
    sys.stdout.flush()
    os._exit(_INTERRUPTED)


def examine(url: str, *, token: str | None, tls: Tls | None, as_json: bool) -> bool:
    """Print the verdicts of `doctor`; True where every one is good."""
    verdicts = doctor(url, token=token, tls=tls)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(verdict) for verdict in verdicts], indent=2))
    else:
        for verdict in verdicts:
            mark = typer.style("ok  ", fg="green") if verdict.ok else typer.style("FAIL", fg="red")
            typer.echo(f"{mark}  {verdict.check:<12}  {verdict.detail}")
            if verdict.fix:
                typer.echo(f"      {'':<12}  -> {verdict.fix}")
    return all(verdict.ok for verdict in verdicts)
