"""One call through the engine, the same for every protocol."""
