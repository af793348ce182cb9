"""Wrappers around every call of a gRPC server: traces and the access log. Imported only if they are configured."""
