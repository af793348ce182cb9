"""The unary calls of Midrib's services: describe, list, load and unload backbones, and compute gradients."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Final, TypeAlias

from midrib.remote._connect.arguments import checked_text
from midrib.remote._connect.backbone_info import BackboneInfo, info_from
from midrib.remote._connect.unary import BACKBONES, UnaryCalls
from midrib.v1 import backbone_pb2, embedding_pb2
from midrib.wire import Array, BackboneLoadingError, InvalidInputError, decode_tensor, encode_tensor

Argument: TypeAlias = str | int | float | bool
_ARGUMENT_FIELDS: Final = {bool: "bool_value", int: "int_value", float: "double_value"}
_LOADING: Final = "loading"
_LOADING_POLL_S: Final = 0.2
_log = logging.getLogger("midrib.remote")


class BackboneCalls(UnaryCalls):
    """Calls to servers that answer alike. Each raises the server's MidribError, or that no server answers."""

    async def describe_loaded(self, name: str) -> BackboneInfo:
        """Return the description of a backbone that serves calls, once it is loaded, within the timeout.

        Raises BackboneLoadingError if it is still loading then, or failed to load.
        """
        info = await self.describe_settled(name)
        if info.input is None:
            raise BackboneLoadingError(
                f"{info.name} at {self.endpoint} is {info.state}: {info.error or 'load it again'}"
            )
        return info

    async def describe_pinned(self, name: str, revision: str | None) -> BackboneInfo:
        """Return the description by the first server that serves a revision, or by any of them if none does.

        During an upgrade, servers of two revisions are behind one URL.
        """
        info = await self.describe_loaded(name)
        for _ in self.endpoint.addresses[1:]:
            if revision in (None, info.revision):
                break
            self.prefer_next()
            info = await self.describe_loaded(name)
        return info

    async def describe_settled(self, name: str) -> BackboneInfo:
        """Return the description of a backbone, once it is loaded or failed to load, within the timeout.

        Raises BackboneLoadingError if it is still loading then.
        """
        until = time.monotonic() + self.timeout
        info = await self.describe(name)
        if info.state == _LOADING:
            self._log_waiting([name])
        while info.state == _LOADING:
            if time.monotonic() >= until:
                raise BackboneLoadingError(
                    f"{info.name} at {self.endpoint} is loading: raise timeout={self.timeout:g}, or wait and try again"
                )
            await asyncio.sleep(_LOADING_POLL_S)
            info = await self.describe(name)
        return info

    async def list_loaded(self) -> list[BackboneInfo]:
        """Return every backbone, ordered by name, once none is loading or the timeout is over."""
        until = time.monotonic() + self.timeout
        infos = await self.list()
        if loading := [info.name for info in infos if info.state == _LOADING]:
            self._log_waiting(loading)
        while time.monotonic() < until and any(info.state == _LOADING for info in infos):
            await asyncio.sleep(_LOADING_POLL_S)
            infos = await self.list()
        return infos

    async def describe(self, name: str) -> BackboneInfo:
        """Return the description of a backbone in its present state."""
        request = backbone_pb2.GetBackboneRequest(name=checked_text("name", name))
        response = await self.invoke(f"{BACKBONES}/GetBackbone", request, backbone_pb2.GetBackboneResponse)
        return info_from(response.backbone)

    async def list(self) -> list[BackboneInfo]:
        """Return the description of every backbone, ordered by name."""
        request = backbone_pb2.ListBackbonesRequest()
        response = await self.invoke(f"{BACKBONES}/ListBackbones", request, backbone_pb2.ListBackbonesResponse)
        return [info_from(backbone) for backbone in response.backbones]

    async def load(self, name: str, arguments: dict[str, Argument], *, replace: bool = False) -> BackboneInfo:
        """Have a registered backbone loaded and warmed up, and return its description. Needs the admin scope.

        replace: whether a backbone that serves the name with other arguments may be replaced, for every client.
        Raises InvalidInputError for an argument of another type.
        """
        request = backbone_pb2.LoadBackboneRequest(name=checked_text("name", name), replace=bool(replace))
        for key, value in arguments.items():
            try:
                setattr(request.arguments[key], _ARGUMENT_FIELDS.get(type(value), "string_value"), value)
            except (TypeError, ValueError) as error:
                raise InvalidInputError(
                    f"{key} is {value!r:.80}, expected a string, a number of at most 64 bits, or a bool ({error})"
                ) from None
        response = await self.invoke(f"{BACKBONES}/LoadBackbone", request, backbone_pb2.LoadBackboneResponse)
        return info_from(response.backbone)

    async def unload(self, name: str) -> None:
        """Have a backbone finish its work and be freed. Needs the admin scope."""
        request = backbone_pb2.UnloadBackboneRequest(name=checked_text("name", name))
        await self.invoke(f"{BACKBONES}/UnloadBackbone", request, backbone_pb2.UnloadBackboneResponse)

    async def backward(self, name: str, revision: str, rows: Array, grad_embedding: Array) -> Array:
        """Return the gradient of rows, [rows, ...]. grad_embedding: that of their features, [rows, num_features]."""
        request = embedding_pb2.BackwardRequest(
            backbone=name,
            revision=revision,
            input=encode_tensor(rows),
            grad_embedding=encode_tensor(grad_embedding),
        )
        response = await self.invoke("/midrib.v1.EmbeddingService/Backward", request, embedding_pb2.BackwardResponse)
        return decode_tensor(response.grad_input)

    def _log_waiting(self, names: Iterable[str]) -> None:
        _log.warning("waiting for %s at %s, which is loading", ", ".join(names), self.endpoint)
