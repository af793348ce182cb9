"""Front processes: they carry the HTTP/2 and TLS of one port for the process of the engine."""
