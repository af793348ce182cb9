"""HTTP: OpenAI's embeddings, probes and metrics."""
