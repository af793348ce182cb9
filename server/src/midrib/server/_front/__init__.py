"""gRPC over HTTP/2 on asyncio: a server that takes the place of `grpc.aio.Server` for the services in `_grpc`."""
