"""Implement the commands of `midrib` that talk to servers."""
