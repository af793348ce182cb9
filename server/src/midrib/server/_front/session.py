"""The frames of one connection: they open, feed and end its streams."""

from __future__ import annotations

from collections.abc import Callable

from midrib.server._front import frames
from midrib.server._front.control import Control, check_length
from midrib.server._front.frames import (
    DEFAULT_WINDOW,
    ErrorCode,
    Http2Error,
    Setting,
    StreamError,
    reset,
    window_update,
    without_padding,
)
from midrib.server._front.headers import HeadDecoder, RequestHead
from midrib.server._front.limits import AbuseCounter, FrontLimits
from midrib.server._front.sending import Sender
from midrib.server._front.stream import Http2Stream

# The window of a connection grows again as bytes arrive: the windows of its streams limit the bytes that are kept.
_CONNECTION_WINDOW = 2**24
_MAX_FRAME = 64 * 1024
# Headers up to this multiple of their limit are read, so that their call alone is refused.
_BLOCK_FACTOR = 4
# A frame of DATA with fewer bytes beside its padding counts as one without content.
_USUAL_DATA_BYTES = 64
# Each part of this size of headers that are not in the decoder's cache counts as a frame without content.
_UNCACHED_BYTES = 256


class Http2Session:
    """The streams of one connection. It handles the client's frames.

    start: begins the call of a new stream; `call_ended` notes its end.
    ponged: called when the client answers a ping.
    active: the calls that run. One that its client has cancelled counts until its handler has ended.
    last_id: the newest stream of the client.
    refuses_streams: whether new streams are refused, because the connection ends.
    """

    def __init__(
        self,
        limits: FrontLimits,
        sender: Sender,
        abuse: AbuseCounter,
        *,
        start: Callable[[Http2Stream], None],
        ponged: Callable[[], None],
    ) -> None:
        self.streams: dict[int, Http2Stream] = {}
        self.active = 0
        self.last_id = 0
        self.refuses_streams = False
        self._limits = limits
        self._sender = sender
        self._abuse = abuse
        self._start = start
        self._decoder = HeadDecoder(limits.max_metadata_bytes)
        self._max_block_bytes = _BLOCK_FACTOR * limits.max_metadata_bytes
        self._window = DEFAULT_WINDOW
        self._control = Control(sender, abuse, self.streams, open_stream=self._open_stream, ponged=ponged)
        self._header_block: _HeaderBlock | None = None
        self._handlers = self._frame_handlers()
        self.progress = abuse.progress

    def _frame_handlers(self) -> tuple[Callable[[int, int, bytes], None], ...]:
        """Return the methods that handle frames, in the order of the frames' numbers."""
        return (
            self._data,
            self._headers,
            self._control.priority,
            self._rst_stream,
            self._control.settings,
            self._control.push_promise,
            self._control.ping,
            self._control.goaway,
            self._control.window_update,
            self._continuation,
        )

    def greet(self) -> None:
        """Send the server's settings."""
        self._sender.send(
            frames.settings_frame(
                {
                    Setting.MAX_CONCURRENT_STREAMS: self._limits.max_streams,
                    Setting.MAX_FRAME_SIZE: _MAX_FRAME,
                    Setting.MAX_HEADER_LIST_SIZE: self._limits.max_metadata_bytes,
                }
            ),
            window_update(0, _CONNECTION_WINDOW - self._window),
        )
        self._window = _CONNECTION_WINDOW

    def check_size(self, size: int) -> None:
        """Raise Http2Error for a frame that is larger than the server's settings allow."""
        if size > _MAX_FRAME:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "frame_too_large")

    def handle(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Handle one frame. Raises Http2Error; a fault of one stream ends that stream."""
        if self._header_block is not None and (kind, stream_id) != (frames.CONTINUATION, self._header_block.stream_id):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"a frame of kind {kind} within a header block")
        try:
            if kind < len(self._handlers):
                self._handlers[kind](flags, stream_id, payload)
            else:
                self._abuse.idle_frame()
        except StreamError as fault:
            self._fail(stream_id, fault)

    def ended(self, stream: Http2Stream) -> None:
        """Remove a stream that the server has ended."""
        self._abuse.answered()
        self._sender.forget(stream)
        self.streams.pop(stream.id, None)

    def call_ended(self) -> None:
        """Note that the handler of a call has ended."""
        self.active -= 1

    def lost(self) -> None:
        """End all streams: the connection is gone."""
        for stream in list(self.streams.values()):
            self._drop(stream)

    def _fail(self, stream_id: int, fault: StreamError) -> None:
        self._abuse.idle_frame()
        self._sender.check_read()
        self._sender.send(reset(stream_id, fault.code))
        if (stream := self.streams.get(stream_id)) is not None:
            self._drop(stream)

    def _drop(self, stream: Http2Stream) -> None:
        self._sender.forget(stream)
        self.streams.pop(stream.id, None)
        stream.lost()

    def _open_stream(self, stream_id: int) -> Http2Stream | None:
        """Return an open stream; None if it has ended. Raises Http2Error if it never was."""
        stream = self.streams.get(stream_id)
        if stream is None and (stream_id > self.last_id or stream_id % 2 == 0):
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"a frame of stream {stream_id}, which is not open")
        return stream

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Handle a DATA frame. Raises Http2Error beyond the window of the connection."""
        size = len(payload)
        stream = self._open_stream(stream_id)
        self._window -= size
        if self._window < 0:
            raise Http2Error(
                ErrorCode.FLOW_CONTROL_ERROR, f"{-self._window} bytes more than the window of the connection"
            )
        if self._window < _CONNECTION_WINDOW // 2:
            self._sender.send(window_update(0, _CONNECTION_WINDOW - self._window))
            self._window = _CONNECTION_WINDOW
        content = without_padding(flags, payload)
        if len(content) < _USUAL_DATA_BYTES and not flags & frames.END_STREAM:
            self._abuse.idle_frame()
        if stream is None:  # the server has ended it, and the frame was on its way
            return
        stream.check_open()
        if size:
            stream.receive(content, size)
        if flags & frames.END_STREAM:
            stream.receive_end()

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Handle a HEADERS frame. Raises Http2Error if it is damaged or too long."""
        payload = without_padding(flags, payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, f"a priority is cut off after {len(payload)} bytes")
            payload = payload[5:]
        ends = bool(flags & frames.END_STREAM)
        if len(payload) > self._max_block_bytes:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "headers_too_large")
        if flags & frames.END_HEADERS:
            self._header_block_complete(stream_id, payload, ends_stream=ends)
        else:
            self._header_block = _HeaderBlock(stream_id, payload, ends_stream=ends)

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Handle a CONTINUATION frame. Raises Http2Error if it continues nothing, or for too many bytes."""
        block = self._header_block
        if block is None:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} continues headers without a beginning")
        self._abuse.idle_frame()
        block.data += payload
        if len(block.data) > self._max_block_bytes:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "headers_too_large")
        if flags & frames.END_HEADERS:
            self._header_block = None
            self._header_block_complete(stream_id, bytes(block.data), ends_stream=block.ends_stream)

    def _header_block_complete(self, stream_id: int, block: bytes, *, ends_stream: bool) -> None:
        """Open a stream, or end it with trailers. Raises Http2Error or StreamError if it cannot be opened."""
        if stream_id <= self.last_id:
            self._trailers(stream_id, block, ends_stream=ends_stream)
            return
        if stream_id % 2 == 0:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, f"got stream {stream_id}, expected an odd number")
        self.last_id = stream_id
        head = self._head(block)  # also of a stream that is refused: HPACK's table depends on it
        if self.refuses_streams:
            raise StreamError(ErrorCode.REFUSED_STREAM, "the connection ends")
        if self.active >= self._limits.max_streams:
            raise StreamError(ErrorCode.ENHANCE_YOUR_CALM, "more streams than the settings allow")
        self._sender.check_read()  # a call whose deadline passes is answered although the transport is full
        stream = Http2Stream(
            stream_id, head, self._sender, self, max_message_bytes=self._limits.message_bytes(head.path)
        )
        stream.send_window = self._control.client_stream_window
        self.streams[stream_id] = stream
        if ends_stream:
            stream.receive_end()
        self.active += 1
        self._start(stream)

    def _head(self, block: bytes) -> RequestHead:
        head = self._decoder.cached(block)
        if head is None:
            self._count_block(block)
            head = self._decoder.head(block)
        return head

    def _count_block(self, block: bytes) -> None:
        """Count a header block that has to be decoded, by its size."""
        self._abuse.idle_frame(weight=len(block) // _UNCACHED_BYTES)

    def _trailers(self, stream_id: int, block: bytes, *, ends_stream: bool) -> None:
        """Read the trailers of a stream. Raises StreamError if they do not end it."""
        stream = self._open_stream(stream_id)
        self._abuse.idle_frame()
        self._count_block(block)
        self._decoder.fields(block)
        if stream is None:
            return
        if not ends_stream:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, f"headers within stream {stream_id}")
        stream.receive_end()

    def _rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        check_length(payload, 4)
        stream = self._open_stream(stream_id)
        if stream is None:
            self._abuse.idle_frame()
            return
        self._drop(stream)
        self._abuse.cancelled()


class _HeaderBlock:
    """A header block whose rest follows in CONTINUATION frames."""

    __slots__ = ("data", "ends_stream", "stream_id")

    def __init__(self, stream_id: int, data: bytes, *, ends_stream: bool) -> None:
        self.stream_id = stream_id
        self.data = bytearray(data)
        self.ends_stream = ends_stream
