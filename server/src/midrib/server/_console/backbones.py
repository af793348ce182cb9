"""Load and unload backbones from the page, with the checks of the gRPC service."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from aiohttp import web
from pydantic import Field

from midrib.registry import AbstractRegistry, Entry
from midrib.server._calls.embedder import RequestEmbedder
from midrib.server._console.measures import MeasuredInterval, read
from midrib.server._console.overview import backbone
from midrib.server._grpc.backbone_service import BackboneService
from midrib.server._http.body import Fields, FieldsT, parse_fields, receive_small, require_media_type
from midrib.server._http.call import CURRENT_CALL
from midrib.v1 import backbone_pb2
from midrib.wire import InvalidInputError

_MAX_BODY_BYTES = 2**16
_MAX_INTEGER = 2**63
# A value of each type that an argument may have, by its annotation, which may be a string.
_ZEROS = {text: kind() for kind in (bool, int, float, str) for text in (kind.__name__, repr(kind.__name__))}


class LoadBody(Fields):
    """The body of POST /console/api/load."""

    name: str = Field(min_length=1)
    """A registered name."""
    arguments: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Arguments of the loader that clients may set."""
    pinned: bool = False
    """Never unload it to make room for another."""
    replace: bool = False
    """If the name is served with other arguments, replace it for every client."""
    dry_run: bool = False
    """Load it and discard it: answer whether it fits, and which backbones would be unloaded."""


class UnloadBody(Fields):
    """The body of POST /console/api/unload."""

    name: str = Field(min_length=1)
    """The name of a served backbone."""


class Changes:
    """Answers the requests of the page that concern which backbones are served."""

    def __init__(self, embedder: RequestEmbedder) -> None:
        self._catalogue = embedder.catalogue
        self._service = BackboneService(self._catalogue, admin=self._catalogue.settings.admin)

    async def registered(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        """Answer the registered names that a client may load, each with the arguments that it may set."""
        # In a thread, because reading the signatures of all loaders takes tens of milliseconds.
        return web.json_response({"registered": await asyncio.to_thread(registered, self._catalogue.registry)})

    async def load(self, request: web.Request) -> web.Response:
        """Load a backbone, or plan to. Raises the errors of `BackboneService.load`."""
        body = await _fields(LoadBody, request)
        entry, unloaded = await self._service.load(_load_request(body))
        reading = read(self._catalogue.metrics.registry)
        described = backbone(self._catalogue, entry, MeasuredInterval(reading, reading))
        return web.json_response({"backbone": described, "unloaded": unloaded, "dry_run": body.dry_run})

    async def unload(self, request: web.Request) -> web.Response:
        """Unload a backbone. Raises the errors of `BackboneService.unload`."""
        body = await _fields(UnloadBody, request)
        await self._service.unload(body.name)
        return web.json_response({"unloaded": body.name})


def registered(registry: AbstractRegistry) -> list[dict[str, Any]]:
    """Return every registered name but those of whole catalogues, with the arguments that a client may set."""
    keys = [described.key for described in registry.list(catalogues=False)]
    return [{"name": key, "arguments": _arguments(registry.get(key, with_metadata=True))} for key in keys]


def _arguments(entry: Entry) -> dict[str, bool | float | str | None]:
    """Return the arguments that a client may set, with their default values; None for one that must be set."""
    arguments: dict[str, bool | float | str | None] = {}
    for name, parameter in inspect.signature(entry.fn).parameters.items():
        required = parameter.default is parameter.empty
        value = _ZEROS.get(inspect.formatannotation(parameter.annotation)) if required else parameter.default
        if isinstance(value, bool | int | float | str) and entry.is_remote(name, value):
            arguments[name] = None if required else value
    return arguments


def _load_request(body: LoadBody) -> backbone_pb2.LoadBackboneRequest:
    return backbone_pb2.LoadBackboneRequest(
        name=body.name,
        arguments={name: _argument(name, value) for name, value in body.arguments.items()},
        pinned=body.pinned,
        replace=body.replace,
        dry_run=body.dry_run,
    )


def _argument(name: str, value: bool | float | str) -> backbone_pb2.Argument:
    """Return an argument of a loader. Raises InvalidInputError for an integer that does not fit."""
    if isinstance(value, bool):
        return backbone_pb2.Argument(bool_value=value)
    if isinstance(value, str):
        return backbone_pb2.Argument(string_value=value)
    if isinstance(value, float):
        return backbone_pb2.Argument(double_value=value)
    if not -_MAX_INTEGER <= value < _MAX_INTEGER:
        raise InvalidInputError(f"argument {name!r} is {value}, expected an integer of 64 bits", field="arguments")
    return backbone_pb2.Argument(int_value=value)


async def _fields(kind: type[FieldsT], request: web.Request) -> FieldsT:
    """Return the JSON object of a small body. Raises InvalidInputError for any other content."""
    require_media_type(request, "application/json")
    CURRENT_CALL.get().begin()
    return await parse_fields(kind, await receive_small(request, limit=_MAX_BODY_BYTES))
