"""The server's description of a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from midrib.registry import InputSpec
from midrib.v1 import backbone_pb2, tensor_pb2
from midrib.wire import BackboneLoadingError, UnsupportedError, decode_input_spec, dtype_from_code


@dataclass(frozen=True)
class BackboneInfo:
    """A served backbone.

    name: `namespace/name`.  revision: the digest of the function.  num_features: the width of a row of features.
    input: the declared input; None (and num_features 0, revision empty) until it is loaded.
    state: "loading", "ready", "draining" or "failed"; error is the reason of a failure.
    compute_dtype: the type of its computation, and the default type of its features.
    takes_pixels: whether the server takes images as uint8 too, and normalises them; earlier versions do not.
    default_prompt: put before each text unless a call has another prompt; None if calls cannot have one.
    prompts: those that a call may name.
    max_message_bytes, max_rows, max_stream_items: the limits of a message and of a stream; 0 if the server has none.
    """

    name: str
    revision: str
    num_features: int
    input: InputSpec | None
    state: str
    device: str
    compute_dtype: str
    license: str
    error: str = ""
    takes_pixels: bool = False
    max_message_bytes: int = 0
    max_rows: int = 0
    max_stream_items: int = 0
    default_prompt: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)

    @property
    def takes(self) -> InputSpec:
        """The declared input. Raises BackboneLoadingError if the backbone is not loaded."""
        if self.input is None:
            raise BackboneLoadingError(f"{self.name} is {self.state}{self.error and f': {self.error}'}")
        return self.input


def info_from(message: backbone_pb2.Backbone) -> BackboneInfo:
    """Return the description that a message carries. Raises UnsupportedError if it has a type that is unknown here."""
    try:
        return _info(message)
    except ValueError as error:
        raise UnsupportedError(
            f"the server's description of {message.name!r:.200} cannot be read ({error}): update this client"
        ) from error


def _info(message: backbone_pb2.Backbone) -> BackboneInfo:
    state = backbone_pb2.BackboneState.Name(message.state).removeprefix("BACKBONE_STATE_").lower()
    compute = dtype_from_code(message.compute_dtype).name if message.compute_dtype else ""
    return BackboneInfo(
        name=message.name,
        revision=message.revision,
        num_features=message.num_features,
        input=decode_input_spec(message.input) if message.HasField("input") else None,
        state=state,
        device=message.device,
        compute_dtype=compute,
        license=message.license,
        error=message.error,
        takes_pixels=tensor_pb2.DATA_TYPE_UINT8 in message.input.tensor.other_dtypes,
        max_message_bytes=message.limits.max_message_bytes,
        max_rows=message.limits.max_rows,
        max_stream_items=message.limits.max_stream_items,
        default_prompt=message.default_prompt if message.HasField("default_prompt") else None,
        prompts=dict(message.prompts),
    )
