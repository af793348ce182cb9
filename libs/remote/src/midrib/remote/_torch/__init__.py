"""A served backbone as a torch module, and its registry."""
