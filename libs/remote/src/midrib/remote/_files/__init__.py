"""Embed files and tables into chunks on disk."""
