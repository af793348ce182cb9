"""What travels: tensors, input declarations and errors, as messages. No torch, no grpc."""

from midrib.wire._bytes import array_bytes, read_tensor, read_varint, tensor_head, varint
from midrib.wire._errors import (
    BackboneLoadingError,
    BackboneNotFoundError,
    DeadlineExceededError,
    DuplicateItemError,
    InputKindError,
    InternalError,
    InvalidInputError,
    LimitExceededError,
    MidribError,
    OverloadedError,
    PermissionDeniedError,
    RevisionMismatchError,
    StreamProtocolError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from midrib.wire._inputs import decode_input_spec, encode_input_spec
from midrib.wire._status import error_to_status, status_to_error
from midrib.wire._tensor import Array, code_from_dtype, decode_tensor, dtype_from_code, encode_int8_rows, encode_tensor

__all__ = [
    "Array",
    "BackboneLoadingError",
    "BackboneNotFoundError",
    "DeadlineExceededError",
    "DuplicateItemError",
    "InputKindError",
    "InternalError",
    "InvalidInputError",
    "LimitExceededError",
    "MidribError",
    "OverloadedError",
    "PermissionDeniedError",
    "RevisionMismatchError",
    "StreamProtocolError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "array_bytes",
    "code_from_dtype",
    "decode_input_spec",
    "decode_tensor",
    "dtype_from_code",
    "encode_input_spec",
    "encode_int8_rows",
    "encode_tensor",
    "error_to_status",
    "read_tensor",
    "read_varint",
    "status_to_error",
    "tensor_head",
    "varint",
]
