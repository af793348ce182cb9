"""The Connect protocol: unary calls with Midrib's own messages, for web pages, which cannot speak gRPC."""
