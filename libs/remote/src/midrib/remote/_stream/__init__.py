"""Send items over EmbedStream and receive their rows."""
