"""The transport's limit: grpc.aio on uvloop, bytes in, bytes out, nothing parsed and nothing computed.

/echo/unary/0 and /echo/stream/0 answer with the received bytes; a number in place of 0 is the size of the answers in
bytes, which is what a server of embeddings sends.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop


class Echo(grpc.GenericRpcHandler):
    """Routes by the path alone."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of /echo/{unary,stream}/{size of an answer}."""
        _, _, kind, size = handler_call_details.method.split("/")
        stop = int(size) or None

        async def unary(request: bytes, context: object) -> bytes:  # noqa: ARG001
            return request[:stop]

        async def stream(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            async for request in requests:
                await context.write(request[:stop])

        if kind == "unary":
            return grpc.unary_unary_rpc_method_handler(unary)
        return grpc.stream_stream_rpc_method_handler(stream)


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    size = 64 << 20
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]
    )
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


uvloop.run(serve(int(sys.argv[1])))
