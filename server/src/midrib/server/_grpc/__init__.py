"""Midrib's own gRPC protocol."""
