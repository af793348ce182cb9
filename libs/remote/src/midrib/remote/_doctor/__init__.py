"""Diagnose the connection to a server."""
