"""Memory that the server shares with a client on its machine, so that tensors are not copied through a connection."""
