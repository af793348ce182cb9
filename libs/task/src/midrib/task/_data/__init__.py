"""Data modules: folders, files, tables and arrays to batches with labels."""
