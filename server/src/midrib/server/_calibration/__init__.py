"""Measurements at load: threads, parallel passes, micro-batches, warm-up and parity."""
