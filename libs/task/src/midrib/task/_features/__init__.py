"""The task's backbone and the cache of its features."""
