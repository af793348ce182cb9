"""Encode the rows of a call as stream items, and decode their results."""
