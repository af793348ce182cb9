"""Show how zttp's HTTP/2 parser gives windows back, and which limits it announces: `python zttp_windows.py`.

It needs zttp. A server that reads nothing of a stream should give none of its window back: only so does HTTP/2's flow
control bound what a client sends ahead of the requests that are admitted.
"""

from __future__ import annotations

import struct

import zttp
from hpack import Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
CALL = [(":method", "POST"), (":scheme", "http"), (":path", "/midrib.v1.EmbeddingService/Embed"), (":authority", "x")]
CHUNK = bytes(16_000)
CHUNKS = 200


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return kind, stream and payload of each frame."""
    parsed = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        stream = int.from_bytes(data[at + 5 : at + 9], "big")
        parsed.append((data[at + 3], stream, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return parsed


def receive(connection: zttp.H2Connection, data: bytes) -> list[tuple[int, int, bytes]]:
    """Hand bytes to the parser, read its events, and return the frames that it sends."""
    connection.receive_data(data)
    while connection.next_event() is not zttp.NEED_DATA:
        pass
    return frames(connection.data_to_send())


def main() -> None:
    """Print the settings that a connection announces, and the windows that it gives back."""
    connection = zttp.Connection(zttp.SERVER, protocol=zttp.HTTP2)
    sent = receive(connection, PREFACE + frame(SETTINGS, 0, 0))
    settings = dict(
        struct.iter_unpack(">HI", next(payload for kind, _, payload in sent if kind == SETTINGS and payload))
    )
    _print(f"settings: {settings[3]} streams, {settings[6]:,} bytes of headers; no argument changes them")
    receive(connection, frame(HEADERS, 4, 1, Encoder().encode(CALL)))
    returned = sum(
        int.from_bytes(payload, "big")
        for _ in range(CHUNKS)
        for kind, stream, payload in receive(connection, frame(DATA, 0, 1, CHUNK))
        if kind == WINDOW_UPDATE and stream == 1
    )
    _print(f"of {CHUNKS * len(CHUNK):,} bytes of a stream that no handler has read, {returned:,} were given back")


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    main()
