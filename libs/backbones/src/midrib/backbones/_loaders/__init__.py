"""Loaders of backbones. They import their libraries when they are called."""
