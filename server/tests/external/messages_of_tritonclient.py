"""Midrib's messages of the standard protocol beside tritonclient's own, in one process.

Run in a venv that has tritonclient, with Midrib's generated code on PYTHONPATH. Prints each call or field whose name,
number or type differs; nothing where the two are one protocol.
"""

from __future__ import annotations

import sys
from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2  # type: ignore[import-not-found] # only in that venv

from midrib.oip.v2 import inference_pb2

OURS, THEIRS = "midrib.oip.v2", "inference"


def theirs(name: str) -> Any:
    return service_pb2.DESCRIPTOR.pool.FindMessageTypeByName(name.replace(OURS, THEIRS))


def shape(field: Any) -> tuple[Any, ...]:
    inner = field.message_type or field.enum_type
    return field.number, field.type, field.is_repeated, inner and inner.full_name.replace(OURS, THEIRS)


def compare(message: Any) -> None:
    fields = theirs(message.full_name).fields_by_name
    for field in message.fields:
        if field.name not in fields or shape(fields[field.name]) != shape(field):
            sys.stdout.write(f"{field.full_name}\n")
    for nested in message.nested_types:
        compare(nested)


def main() -> None:
    for message in inference_pb2.DESCRIPTOR.message_types_by_name.values():
        compare(message)
    data_type = model_config_pb2.DataType
    if dict(data_type.items()) != dict(inference_pb2.DataType.items()):
        sys.stdout.write("DataType\n")
    (service,) = inference_pb2.DESCRIPTOR.services_by_name.values()
    methods = service_pb2.DESCRIPTOR.services_by_name[service.name].methods_by_name
    for method in service.methods:
        same = methods[method.name]
        if [same.input_type.name, same.output_type.name] != [method.input_type.name, method.output_type.name]:
            sys.stdout.write(f"{method.full_name}\n")


main()
