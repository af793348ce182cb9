"""Checkpoints: save, load, resume and swap the backbone."""
