"""`RemoteBackbone`: a served backbone as an nn.Module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn

from midrib.registry import ImageInput, InputSpec
from midrib.registry._unknown import check_keywords
from midrib.remote._clients.options import FeatureOptions
from midrib.remote._connect.address import TlsLike, endpoint_from, split_url
from midrib.remote._connect.arguments import checked_dtype, checked_text
from midrib.remote._connect.backbone_calls import BackboneCalls
from midrib.remote._items.rows import Rows, TensorRows, tensor_rows, text_rows
from midrib.remote._stream.request import CallPolicy, Priority
from midrib.remote._stream.session import CallSession, session_for
from midrib.remote._stream.timing import StageTimes
from midrib.remote._torch.cache import FeatureFile
from midrib.remote._torch.gradient import embed_with_gradient
from midrib.wire import Array, InvalidInputError, RevisionMismatchError, UnsupportedError, is_floating

_DEFAULT_MESSAGE_BYTES: Final = 4 << 20
# Each part of a gradient has the whole timeout: on a line of 300 kB/s this takes 27 s.
_GRADIENT_PART_BYTES: Final = 8 << 20
_HEAD_BYTES: Final = 1024


class RemoteBackbone(nn.Module):
    """A backbone that a server runs, in place of a local one.

    Maps [rows, ...] to [rows, num_features], for any number of rows, on the input's device and in its floating type;
    integer inputs (token ids, or pixels of uint8 if `takes_pixels`) give the backbone's compute type. A backbone that
    takes text also takes a sequence of strings, which the server tokenizes; their features are on the CPU. It has no
    parameters and always runs in eval mode. The calls of several threads are joined into messages. If the input
    requires a gradient, the server computes it in the backward pass.

    url: grpc://host:port/namespace/name (grpcs:// for TLS; several servers as a:1,b:2), or (address, name). Followed by
    ?connections=4 it opens four connections to each address, which a proxy may spread over several servers.
    revision: the digest to insist on, by default the server's at construction. Another one is refused.
    timeout: seconds that a call may take, its retries included; and that construction waits for a backbone that loads.
    window: items in flight; adaptive by default.
    dtype: the type in which floating values travel, in both directions ("float16", "bfloat16"): fewer bytes, rounded.
    "int8" sends the features in a byte each, and leaves the inputs unchanged.
    cache: a file that stores the features of each row, so that a second epoch makes no calls; processes may share it.
    token, tls, hedge_s, priority, shared_memory: as for `Client`.
    Raises UnavailableError if no server answers, BackboneNotFoundError, BackboneLoadingError, RevisionMismatchError;
    InvalidInputError for an argument that is not among these.
    """

    is_remote = True
    num_features: int
    input: InputSpec
    revision: str
    takes_pixels: bool

    def __init__(
        self,
        url: str | tuple[str, str],
        *,
        revision: str | None = None,
        timeout: float = 30.0,
        token: str | None = None,
        tls: TlsLike = None,
        window: int | None = None,
        dtype: str | None = None,
        cache: str | Path | None = None,
        hedge_s: float | None = None,
        priority: Priority = "interactive",
        shared_memory: bool | None = None,
    ) -> None:
        super().__init__()
        address, self.name = url if isinstance(url, tuple | list) and len(url) == 2 else split_url(url)
        if revision is not None:
            checked_text("revision", revision)
        self._policy = CallPolicy(timeout, window, hedge_s, priority, shared_memory)
        dtype = None if dtype is None else checked_dtype(dtype)
        if dtype not in (None, "int8") and not is_floating(np.dtype(dtype)):
            raise InvalidInputError(f"dtype is {dtype!r}, expected a floating type such as 'float16', or 'int8'")
        self._servers = BackboneCalls(endpoint_from(address, token=token, tls=tls), timeout)
        self._info = self._servers.run(lambda: self._servers.describe_pinned(self.name, revision))
        if revision is not None and revision != self._info.revision:
            raise RevisionMismatchError(
                f"{self.name} at {self._servers.endpoint} is revision {self._info.revision[:12]}, expected "
                f"{revision[:12]}: serve that one, or drop revision= and train the head again"
            )
        self.num_features = self._info.num_features
        self.input = self._info.takes
        self.takes_pixels = self._info.takes_pixels
        self.revision = self._info.revision
        self.timeout = timeout
        self._dtype = dtype
        self._session: CallSession | None = None
        function = f"{self.revision}/int8" if dtype == "int8" else self.revision
        features_dtype = "float32" if dtype == "int8" else dtype or self._info.compute_dtype
        self._cache = None if cache is None else FeatureFile(cache, function, features_dtype, self.num_features)

    @property
    def stall(self) -> StageTimes:
        """The time that all items so far spent in each stage; the difference of two values is the time of a step."""
        return self.open().stage_times

    @torch.compiler.disable  # type: ignore[untyped-decorator] # torch does not type it
    def forward(self, x: Tensor | Sequence[str]) -> Tensor:
        """Return the features of a batch, [rows, num_features].

        Raises UnsupportedError if the call is traced, InvalidInputError if x is not a batch, and a call's MidribError.
        """
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call] # torch does not export it
        if tracing or _has_proxy(x):
            raise UnsupportedError(
                f"{self.name} runs on a server and cannot be traced: the trace would keep the features of the example",
                reason="TRACING",
            )
        if not isinstance(x, Tensor):
            if not isinstance(x, list | tuple) or not all(isinstance(text, str) for text in x):
                raise InvalidInputError(_refusal(x, self.input))
            return from_numpy(self._request(text_rows(x))).to(dtype=getattr(torch, self._info.compute_dtype))
        if advice := _advice_if_unreadable(x):
            raise InvalidInputError(f"got a tensor {advice}")
        if x.dtype == torch.uint8 and isinstance(self.input, ImageInput) and not self.takes_pixels:
            raise InvalidInputError(
                f"got pixels of uint8, and the server of {self.name} takes {self.input.tensor.dtype} only, because its "
                "version is older: send (pixels / 255 - mean) / std, or upgrade the server"
            )
        return embed_with_gradient(x, self._embed, self._gradient)

    def embed_texts(self, texts: Sequence[str], *, prompt: str | None = None, prompt_name: str | None = None) -> Tensor:
        """Return the features of texts, [texts, num_features], on the CPU.

        prompt: put before each text; prompt_name: one of the backbone's prompts instead; by default its choice.
        Raises InvalidInputError for an unknown prompt_name or an item that is not a string, UnsupportedError if the
        server is older than prompts, and a call's MidribError.
        """
        if prompt is None and prompt_name is None:
            return cast("Tensor", self(texts if isinstance(texts, str) else list(texts)))
        options = FeatureOptions(self._dtype, revision=self.revision, prompt=prompt, prompt_name=prompt_name)
        session = session_for(self._servers.endpoint, options.spec(self._info), self._info, self._policy)
        rows = session.wait(session.submit(text_rows(texts)), self.timeout)
        return from_numpy(rows).to(dtype=getattr(torch, self._info.compute_dtype))

    def extra_repr(self) -> str:
        url = f"{self._servers.endpoint}/{self.name}"
        return f"{url!r}, num_features={self.num_features}, revision={self.revision[:12]}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}

    def _embed(self, x: Tensor) -> Tensor:
        rows = tensor_rows(to_numpy(x), dtype=None if self._dtype == "int8" else self._dtype)
        features = self._request(rows) if self._cache is None else self._cache.features(rows.array, self._request_array)
        dtype = x.dtype if x.is_floating_point() else getattr(torch, self._info.compute_dtype)
        return from_numpy(features).to(device=x.device, dtype=dtype)

    def _request_array(self, rows: Array) -> Array:
        return self._request(TensorRows(rows))

    def _request(self, rows: Rows) -> Array:
        session = self.open()
        return session.wait(session.submit(rows), self.timeout)

    def _gradient(self, x: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient of the input, [rows, ...], in messages that fit the server's limits."""
        rows, gradient = to_numpy(x), to_numpy(grad)
        message_bytes = min(self._info.max_message_bytes or _DEFAULT_MESSAGE_BYTES, _GRADIENT_PART_BYTES)
        row_bytes = (rows.nbytes + gradient.nbytes) // max(1, len(rows))
        count = max(1, min((message_bytes - _HEAD_BYTES) // max(1, row_bytes), self._info.max_rows or len(rows) or 1))
        parts = [
            self._gradient_part(rows[start : start + count], gradient[start : start + count])
            for start in range(0, max(1, len(rows)), count)
        ]
        return from_numpy(np.concatenate(parts)).to(device=x.device, dtype=x.dtype)

    def _gradient_part(self, rows: Array, gradient: Array) -> Array:
        return self._servers.run(lambda: self._servers.backward(self.name, self.revision, rows, gradient))

    def open(self) -> CallSession:
        """Return the session of its calls, which the process shares between all that call the same function."""
        if self._session is None:
            spec = FeatureOptions(self._dtype, revision=self.revision).spec(self._info)
            self._session = session_for(self._servers.endpoint, spec, self._info, self._policy)
        return self._session


def _has_proxy(x: object) -> bool:
    """Return whether make_fx traces this call."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return isinstance(x, Tensor) and get_proxy_mode() is not None


def _refusal(x: object, spec: InputSpec) -> str:
    """Return why something that is no tensor cannot be sent, and its remedy."""
    if isinstance(x, str):
        return "got one string, expected a batch: pass [text]"
    if isinstance(x, list | tuple) and any(isinstance(text, str) for text in x):
        index, item = next((i, item) for i, item in enumerate(x) if not isinstance(item, str))
        return f"texts[{index}] is {item!r:.80}, expected a string: leave it out, or convert it"
    tensors = isinstance(x, list | tuple) and all(isinstance(row, Tensor) for row in x)
    remedy = "torch.stack(x)" if tensors else "torch.as_tensor(x)"
    if isinstance(spec, ImageInput) and isinstance(x, list | tuple) and not tensors:
        remedy = "images to midrib.backbones.load_backbone(url).embed_images"
    return f"got {type(x).__name__}, expected a tensor [rows, ...] or a list of strings: pass {remedy}"


def _advice_if_unreadable(x: Tensor) -> str:
    """Return which kind of tensor cannot be sent, and its remedy; "" for a dense tensor that holds values."""
    if x.is_nested:
        return "that is nested, expected a dense one [rows, ...]: pass its tensors one at a time, or padded"
    if x.layout is not torch.strided:
        return f"of layout {x.layout}, expected a dense one: pass x.to_dense()"
    if x.is_meta:
        return "on the device meta, which holds no values: pass one on a CPU or an accelerator"
    return "of quantized values, expected plain ones: pass x.dequantize()" if x.is_quantized else ""


def open_url(url: str, **kwargs: Any) -> tuple[RemoteBackbone, int]:
    """Return the backbone of a grpc:// or grpcs:// name, and its num_features; the registry calls this.

    kwargs: RemoteBackbone's arguments. Raises its errors, and TypeError for other arguments.
    """
    try:
        check_keywords(RemoteBackbone, kwargs)
    except TypeError as error:
        raise TypeError(
            f"{error}; a loader's arguments are set on the server, as in midrib serve 'namespace/name?argument=value'"
        ) from None
    backbone = RemoteBackbone(url, **kwargs)
    return backbone, backbone.num_features


def to_numpy(x: Tensor) -> Array:
    """Return the values of a tensor [...], which share its memory if it is on the CPU and contiguous.

    Raises InvalidInputError for an element type that numpy does not have.
    """
    x = x.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if x.dtype == torch.bfloat16:  # numpy does not have it
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    try:
        array: Array = x.numpy()
    except TypeError as error:
        raise InvalidInputError(f"got a tensor of {x.dtype}, which cannot be sent ({error}): pass x.float()") from None
    return array


def from_numpy(array: Array) -> Tensor:
    """Return a tensor [...] over the memory of an array of that shape."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
