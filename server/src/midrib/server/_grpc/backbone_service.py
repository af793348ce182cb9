"""BackboneService: lists, loads and unloads backbones."""

from __future__ import annotations

import inspect
from typing import Any

from midrib.registry import LoaderArgumentError
from midrib.server._catalogue.catalogue import Catalogue
from midrib.server._catalogue.descriptions import limits_message, prompts_message
from midrib.server._catalogue.entry import CatalogueEntry
from midrib.server._engine.description import State
from midrib.server._grpc.context import Context
from midrib.server._settings import BackboneSettings
from midrib.v1 import backbone_pb2, backbone_pb2_grpc
from midrib.wire import (
    InvalidInputError,
    PermissionDeniedError,
    code_from_dtype,
    encode_input_spec,
)

_STATES = {
    State.LOADING: backbone_pb2.BACKBONE_STATE_LOADING,
    State.READY: backbone_pb2.BACKBONE_STATE_READY,
    State.DRAINING: backbone_pb2.BACKBONE_STATE_DRAINING,
    State.FAILED: backbone_pb2.BACKBONE_STATE_FAILED,
}


class BackboneService(backbone_pb2_grpc.BackboneServiceServicer):
    """Answers from the catalogue.

    admin: whether clients may load and unload on this port.
    """

    def __init__(self, catalogue: Catalogue, *, admin: bool) -> None:
        self._catalogue = catalogue
        self._admin = admin

    async def ListBackbones(
        self, request: backbone_pb2.ListBackbonesRequest, context: Context
    ) -> backbone_pb2.ListBackbonesResponse:
        """Return every backbone, ordered by name."""
        entries = sorted(self._catalogue.entries.values(), key=lambda entry: entry.name)
        return backbone_pb2.ListBackbonesResponse(backbones=[self._message(entry) for entry in entries])

    async def GetBackbone(
        self, request: backbone_pb2.GetBackboneRequest, context: Context
    ) -> backbone_pb2.GetBackboneResponse:
        """Return one backbone. Raises BackboneNotFoundError, with the nearest names."""
        return backbone_pb2.GetBackboneResponse(backbone=self._message(self._catalogue.entry(request.name)))

    async def LoadBackbone(
        self, request: backbone_pb2.LoadBackboneRequest, context: Context
    ) -> backbone_pb2.LoadBackboneResponse:
        """Load a registered backbone with arguments that clients may set."""
        entry, unloaded = await self.load(request)
        return backbone_pb2.LoadBackboneResponse(backbone=self._message(entry), unloaded=unloaded)

    async def UnloadBackbone(
        self, request: backbone_pb2.UnloadBackboneRequest, context: Context
    ) -> backbone_pb2.UnloadBackboneResponse:
        """Drain a backbone and free its device."""
        await self.unload(request.name)
        return backbone_pb2.UnloadBackboneResponse()

    async def load(self, request: backbone_pb2.LoadBackboneRequest) -> tuple[CatalogueEntry, list[str]]:
        """Load the backbone of a request, or plan to, for every protocol.

        Returns the entry, and the names of the idle backbones that were unloaded to make room. Raises
        PermissionDeniedError without admin rights, InvalidInputError for a backbone or an argument that only the
        server's configuration may name, and the errors of `Catalogue.load`.
        """
        self._require_admin("LoadBackbone")
        name = self._catalogue.canonical_name(request.name)
        self._check_registered(name)
        arguments = {key: _argument(key, value) for key, value in request.arguments.items()}
        self._check_arguments(name, arguments)
        settings = BackboneSettings(name=name, arguments=arguments, pinned=request.pinned)
        try:
            if request.dry_run:
                return await self._catalogue.plan(settings)
            return await self._catalogue.load(settings, replace=request.replace)
        except LoaderArgumentError as error:
            raise InvalidInputError(str(error), field="arguments") from error

    async def unload(self, name: str) -> None:
        """Unload a backbone, for every protocol. Raises PermissionDeniedError without admin rights."""
        self._require_admin("UnloadBackbone")
        await self._catalogue.unload(name)

    def _require_admin(self, call: str) -> None:
        """Raise PermissionDeniedError unless this port allows to change backbones."""
        if not self._admin:
            raise PermissionDeniedError(f"{call} is not allowed here: start the server with --admin, or an admin_port")

    def _check_registered(self, name: str) -> None:
        """Raise InvalidInputError for a name of a whole catalogue (timm, transformers), which would fetch any name."""
        if all(entry.key != name for entry in self._catalogue.registry.list(catalogues=False)):
            raise InvalidInputError(
                f"{name!r} is of a catalogue that fetches any name: put it into the server's configuration",
                field="name",
            )

    def _check_arguments(self, name: str, arguments: dict[str, Any]) -> None:
        """Raise InvalidInputError for an argument that the loader lacks, or that clients may not set."""
        entry = self._catalogue.registry.get(name, with_metadata=True)
        parameters = inspect.signature(entry.fn).parameters
        for key, value in arguments.items():
            if key not in parameters:
                raise InvalidInputError(
                    f"the loader of {name!r} has no argument {key!r}, it has: {', '.join(parameters) or 'none'}",
                    field=f"arguments[{key}]",
                )
            if not entry.is_remote(key, value):
                raise InvalidInputError(
                    f"argument {key!r} of {name!r} is not for clients to set, received {value!r}: put it into the "
                    "server's configuration, or declare it in remote_arguments of its registration",
                    field=f"arguments[{key}]",
                )

    def _message(self, entry: CatalogueEntry) -> backbone_pb2.Backbone:
        message = backbone_pb2.Backbone(name=entry.name, state=_STATES[entry.state], error=entry.error)
        if entry.loaded is not None:
            described = entry.loaded.served.description
            message.MergeFrom(
                backbone_pb2.Backbone(
                    revision=described.revision,
                    num_features=described.num_features,
                    input=encode_input_spec(described.input),
                    device=described.device,
                    compute_dtype=code_from_dtype(described.dtype),
                    license=described.license,
                    limits=limits_message(self._catalogue.settings, entry.loaded.intake),
                )
            )
            message.MergeFrom(prompts_message(entry.loaded.intake))
        return message


def _argument(key: str, message: backbone_pb2.Argument) -> str | int | float | bool:
    """Return the value of an argument. Raises InvalidInputError for a string that looks like a path or a URL."""
    kind = message.WhichOneof("value")
    if kind is None:
        raise InvalidInputError(f"argument {key!r} has no value", field=f"arguments[{key}]")
    value: str | int | float | bool = getattr(message, kind)
    if isinstance(value, str) and any(mark in value for mark in "/\\:~"):
        raise InvalidInputError(
            f"argument {key!r} looks like a path or a URL: the server reads neither for a client; "
            "put it into the server's own configuration",
            field=f"arguments[{key}]",
        )
    return value
