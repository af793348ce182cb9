"""Processes that each hold one replica of one backbone: start, feed, watch and replace them."""
