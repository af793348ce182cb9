"""Memory that a server on the same machine shares with one of this process's streams."""
