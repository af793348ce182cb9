"""From requests to arrays, and from rows to the embedding that was asked for."""
