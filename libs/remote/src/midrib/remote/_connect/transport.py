"""gRPC channels, calls and streams, and the errors that their failures become."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from midrib.remote._connect.address import Endpoint
from midrib.remote._connect.certificates import Certificates
from midrib.remote._connect.diagnosis import CALL_REFUSED, RAY_INGRESS, broken
from midrib.wire import (
    DeadlineExceededError,
    InternalError,
    LimitExceededError,
    MidribError,
    UnavailableError,
    status_to_error,
)

EMBED_STREAM: Final = "/midrib.v1.EmbeddingService/EmbedStream"
# Seconds between pings, far above the least that servers permit (5 s by default).
KEEPALIVE_S: Final = 30.0
_STATUS_KEY = "grpc-status-details-bin"
_OPTIONS = [
    # The server's limits govern; gRPC's own default would refuse answers over 4 MB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A restarted server is found again within a second, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # DNS that does not answer is an error soon, not after gRPC's default of two minutes.
    ("grpc.dns_ares_query_timeout", 5000),
    # Pings find a connection that died while it was idle: a NAT or a firewall forgot it.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A channel that replaces a dead one opens another connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A unary call to a name with several records goes to a machine that answers.
    ("grpc.lb_policy_name", "round_robin"),
]
# The statuses of a broken connection, as opposed to a server's answer.
_BROKEN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
}
# Other statuses, with words of their text, that no server sends: gRPC reports UNIMPLEMENTED for the HTTP status 404.
_REFUSED_BY_PROXY: Final = (
    (grpc.StatusCode.UNIMPLEMENTED, "received http2 header with status"),
    (grpc.StatusCode.NOT_FOUND, RAY_INGRESS),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, CALL_REFUSED),
)
# The texts of refused headers: Midrib's for a call and for a connection, grpcio's, and the HTTP status of a proxy.
_LARGE_HEADERS: Final = re.compile(r"headers have \d+ bytes|headers_too_large|metadata size exceeds|status:? 431\b")
# The names of gRPC's threads begin with these.
_GRPC_THREADS: Final = ("grpc_", "event_engine", "lifeguard", "resolver-exec")
_Response = TypeVar("_Response", bound=Message)


def new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop for channels, of uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:  # it is optional, and not for Windows: a quarter fewer messages a second
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    loop.set_exception_handler(_ignore_shared_poller)
    return loop


def _ignore_shared_poller(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Ignore that gRPC wakes every loop of the process for each event, and that only the first finds it."""
    if isinstance(context.get("exception"), BlockingIOError):
        return
    loop.default_exception_handler(context)


def grpc_threads() -> list[str]:
    """Return the names of gRPC's threads, which Python does not list; empty on systems other than Linux."""
    names = []
    for task in Path("/proc/self/task").glob("*/comm"):
        try:
            names.append(task.read_text())
        except OSError:
            continue  # ended meanwhile
    return [name for name in names if name.startswith(_GRPC_THREADS)]


def open_channel(
    address: str,
    certificates: Certificates | None,
    name: str | None = None,
    *,
    connect_s: float = 1.0,
    keepalive_s: float = KEEPALIVE_S,
) -> grpc.aio.Channel:
    """Return a lazy channel to one address.

    certificates: None for a connection without TLS.  name: the host that the address was looked up from, which the
    server's certificate is issued to.  connect_s: seconds for one attempt to connect, TLS included.
    keepalive_s: seconds between pings; a connection that does not answer one in twice as many is closed.
    """
    options: list[tuple[str, Any]] = [
        *_OPTIONS,
        ("grpc.min_reconnect_backoff_ms", int(1e3 * connect_s)),
        ("grpc.keepalive_time_ms", int(1e3 * keepalive_s)),
        # On a slow line a ping waits behind the bytes of an upload.
        ("grpc.keepalive_timeout_ms", int(2e3 * keepalive_s)),
        ("grpc.http2.ping_timeout_ms", int(2e3 * keepalive_s)),
    ]
    options += [("grpc.default_authority", name)] if name else []
    if certificates is None:
        return grpc.aio.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(*certificates)
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.aio.secure_channel(address, credentials, options=options)


async def call(
    channel: grpc.aio.Channel,
    address: str,
    endpoint: Endpoint,
    method: str,
    request: Message,
    response: type[_Response],
    timeout: float,
) -> _Response:
    """Make one unary call.

    Raises the server's MidribError, UnavailableError if no server answers or the channel is closed meanwhile, and
    InternalError for an answer that is not the response.
    """
    unary = channel.unary_unary(
        method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
    )
    try:
        answer = await unary(request, timeout=timeout, metadata=_metadata(endpoint))
    except grpc.aio.AioRpcError as error:
        raise _error(error.code(), error.details(), error.trailing_metadata(), address) from error
    except asyncio.CancelledError:
        _raise_if_task_cancelled()
        raise UnavailableError(f"{address} was silent in another call of this channel", reason="SILENT") from None
    if answer is None:  # gRPC could not parse it
        raise InternalError(f"{address} answered {method} with something else: is it a Midrib server?")
    return answer


class EmbeddingStream:
    """A stream of embeddings, as raw bytes. However it breaks, its methods report the end and raise nothing.

    gRPC raises various errors, private ones among them, for a stream that has ended meanwhile; `error` says why it did.
    """

    def __init__(self, channel: grpc.aio.Channel, address: str, endpoint: Endpoint) -> None:
        self._call: Any = channel.stream_stream(EMBED_STREAM)(metadata=_metadata(endpoint))
        self._address = address
        self._cancelled = False

    async def write(self, data: bytes) -> bool:
        """Send a message, once there is room for it. Return False if the stream has ended."""
        try:
            await self._call.write(data)
        except Exception:  # noqa: BLE001 - see the class
            return False
        except asyncio.CancelledError:
            _raise_if_task_cancelled()
            return False
        return True

    async def read(self) -> bytes | None:
        """Return the next message; None if the stream has ended."""
        try:
            message = await self._call.read()
        except Exception:  # noqa: BLE001 - see the class
            return None
        except asyncio.CancelledError:
            _raise_if_task_cancelled()
            return None
        return None if message is grpc.aio.EOF else cast(bytes, message)

    async def finish(self) -> None:
        """Tell the server that no more will be sent; reading continues."""
        with contextlib.suppress(Exception):
            await self._call.done_writing()

    async def error(self) -> MidribError:
        """Return the reason of the end."""
        if self._cancelled:
            return UnavailableError(f"{self._address} owed results and was silent for too long", reason="SILENT")
        call = self._call
        return _error(await call.code(), await call.details(), await call.trailing_metadata(), self._address)

    def cancel(self) -> None:
        """End the stream now."""
        self._cancelled = True
        self._call.cancel()


def _raise_if_task_cancelled() -> None:
    """Raise the CancelledError again, unless gRPC raised it because the call or its channel was cancelled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise  # called from an except clause


def _metadata(endpoint: Endpoint) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {endpoint.token}")] if endpoint.token else []


def _error(code: grpc.StatusCode, details: str | None, trailing: Any, address: str) -> MidribError:
    for key, value in trailing or ():
        if key == _STATUS_KEY:
            with contextlib.suppress(DecodeError):  # not of a Midrib server: the code says enough
                return status_to_error(status_pb2.Status.FromString(value))
    text = details or code.name
    if code is grpc.StatusCode.OK:
        return UnavailableError(f"{address} ended the stream: open another", reason="STREAM_ENDED")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(f"{address} did not answer in time: raise timeout=")
    if _LARGE_HEADERS.search(text):
        return LimitExceededError(
            f"{address} refused the headers of a call, which hold the token ({text}): check that the token is not "
            "another file's text, or raise the server's max_metadata_bytes"
        )
    if code in _BROKEN or any(code is other and words in text.lower() for other, words in _REFUSED_BY_PROXY):
        return broken(text, address)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return LimitExceededError(f"{address}: {text}: send fewer rows at a time")
    return status_to_error(status_pb2.Status(code=code.value[0], message=f"{address}: {text}"))
