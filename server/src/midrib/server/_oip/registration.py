"""Adds the inference service to a server, under the name that its clients call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.rpc import error_details_pb2

from midrib.oip.v2 import inference_pb2
from midrib.server._grpc.decoding import DecodingServer

_PACKAGE, _PUBLIC_PACKAGE = "midrib.oip.v2", "inference"
_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
SERVICE_NAME = f"{_PUBLIC_PACKAGE}.{_SERVICE.name}"


def add_inference_service(service: object, server: DecodingServer) -> None:
    """Route the calls of `inference.GRPCInferenceService` to the methods of a service."""
    handlers = {method.name: _handler(method, getattr(service, method.name)) for method in _SERVICE.methods}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)])


def reflection_pool(service_names: Iterable[str]) -> descriptor_pool.DescriptorPool:
    """Return the descriptors of these services, of error details, and of the inference service under its public name.

    It is not the default pool, which may hold tritonclient's messages of the same names.
    """
    pool, added = descriptor_pool.DescriptorPool(), set[str]()
    for name in service_names:
        if name != SERVICE_NAME:
            _copy(descriptor_pool.Default().FindFileContainingSymbol(name), pool, added)
    # No message refers to these types: an error holds them as Any, and a tool prints that only if it finds the type.
    _copy(error_details_pb2.DESCRIPTOR, pool, added)
    file = descriptor_pb2.FileDescriptorProto()
    inference_pb2.DESCRIPTOR.CopyToProto(file)
    renamed = text_format.Parse(
        text_format.MessageToString(file).replace(_PACKAGE, _PUBLIC_PACKAGE), descriptor_pb2.FileDescriptorProto()
    )
    renamed.name = "grpc_service.proto"
    pool.Add(renamed)
    return pool


def _copy(file: FileDescriptor, pool: descriptor_pool.DescriptorPool, added: set[str]) -> None:
    """Add a file and the files that it imports to a pool, once each."""
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _copy(dependency, pool, added)
    pool.AddSerializedFile(file.serialized_pb)


def _handler(method: MethodDescriptor, behaviour: Any) -> Any:
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    streams = method.client_streaming and method.server_streaming
    make = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
    return make(behaviour, request_deserializer=request.FromString, response_serializer=response.SerializeToString)
