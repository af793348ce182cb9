"""Reach a server: addresses, channels, retries and unary calls."""
