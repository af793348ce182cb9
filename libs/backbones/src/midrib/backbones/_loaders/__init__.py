"""Functions that make backbones; what they need is imported when they are called."""
