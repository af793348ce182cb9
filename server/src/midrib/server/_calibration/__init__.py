"""Measurements at load, before a backbone serves: threads, parallel passes, micro-batches, warm-up and parity."""
