"""The command `midrib`."""
