"""From names to served backbones: load, swap, evict and unload."""
