"""One batch through one device: the only package that computes with torch."""
