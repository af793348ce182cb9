"""`midrib describe`, `load`, `unload` and `doctor`: one backbone, here or on a server."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import typer

from midrib.registry import ImageInput, InputSpec, TensorInput, in_words
from midrib.remote._command.listing import local_registry, print_fields
from midrib.remote._command.names import parse_backbone
from midrib.remote._command.options import Access
from midrib.remote._command.responsive import say_if_slow
from midrib.remote._connect.address import split_url

if TYPE_CHECKING:
    from midrib.registry import InputSpec
    from midrib.remote._connect.backbone_info import BackboneInfo
    from midrib.remote._doctor.network import Verdict


def describe_local(name: str, *, as_json: bool) -> None:
    """Print an entry of this process's registry.

    name: 'namespace/name', or 'namespace/name?argument=value' to check the arguments as well.
    Raises KeyError, with near names, if the registry has none of that name, TypeError for arguments that do not fit.
    """
    with say_if_slow("reading the registry ..."):
        parsed, registry = parse_backbone(name), local_registry()
        explanation = registry.explain(parsed["name"])
    fields = explanation.as_dict()
    if parsed["arguments"]:
        registry.get(parsed["name"], with_metadata=True).check_arguments(**parsed["arguments"])
        fields["arguments"] = parsed["arguments"]
    _print(fields, explanation.input, as_json=as_json)


def describe_served(name: str, server: str | None, access: Access, *, as_json: bool) -> None:
    """Print a server's backbone.  name: has a server's URL before it if server is None.

    Raises InvalidInputError for a URL that names no server or no backbone.
    """
    if server is None:
        server, name = split_url(name)
    with say_if_slow(f"asking {server} ..."), access.client(server) as client:
        info = client.describe(name, wait=False)
    _print_info(info, as_json=as_json)


def load(backbone: str, server: str, access: Access, *, replace: bool, as_json: bool) -> None:
    """Have a server load a backbone, and print it once it serves.

    backbone: 'namespace/name?argument=value'.  replace: a backbone that serves the name with other arguments.
    """
    parsed = parse_backbone(backbone)
    typer.echo(f"loading {parsed['name']} at {server} ...", err=True)
    with access.client(server) as client:
        info = client.load(parsed["name"], replace=replace, **parsed["arguments"])
    _print_info(info, as_json=as_json)


def unload(name: str, server: str, access: Access, *, as_json: bool) -> None:
    """Have a server finish and free a backbone."""
    with (
        say_if_slow(f"unloading {name} at {server}: it finishes its accepted items ..."),
        access.client(server) as client,
    ):
        client.unload(name)
    typer.echo(json.dumps({"unloaded": name}) if as_json else f"unloaded {name}")


def examine(url: str, access: Access, *, as_json: bool) -> bool:
    """Print the verdicts on the connection to a served backbone; return whether all of them are good."""
    from midrib.remote._doctor.checks import verdicts_on

    verdicts = []
    for verdict in verdicts_on(url, **access.arguments()):
        verdicts.append(verdict)
        if not as_json:
            _print_verdict(verdict)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(verdict) for verdict in verdicts], indent=2))
    return all(verdict.ok for verdict in verdicts)


def _print_info(info: BackboneInfo, *, as_json: bool) -> None:
    fields = {**dataclasses.asdict(info), "input": None}
    if info.input is not None:
        fields["input"] = {"kind": type(info.input).__name__, **dataclasses.asdict(info.input)}
    _print(fields, info.input, as_json=as_json)


def _print(fields: dict[str, Any], spec: InputSpec | None, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(fields, indent=2))
    else:
        pixels = bool(fields.pop("takes_pixels", True))
        print_fields({**fields, "input": _in_words(spec, pixels=pixels)})


def _in_words(spec: InputSpec | None, *, pixels: bool) -> str:
    """Return an input in words; for media, with the tensors that are taken in their place.

    pixels: whether images are taken as uint8 too.
    """
    if spec is None or isinstance(spec, TensorInput):
        return in_words(spec)
    tensors = [spec.tensor, spec.pixels] if isinstance(spec, ImageInput) and pixels else [spec.tensor]
    return f"{in_words(spec)}, or a tensor: {' or '.join(map(in_words, tensors))}"


def _print_verdict(verdict: Verdict) -> None:
    mark = typer.style("ok  ", fg="green") if verdict.ok else typer.style("FAIL", fg="red")
    typer.echo(f"{mark}  {verdict.check:<12}  {verdict.detail}")
    if verdict.fix:
        typer.echo(f"      {'':<12}  -> {verdict.fix}")
